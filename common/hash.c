#include "common/hash.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <xxhash.h>

uint64_t kv_xxh64(const void *p, size_t n, uint64_t seed) { return XXH64(p, n, seed); }

/* libcrypto fails here only when it is broken or memory is out: no result would be trustworthy. */
static void must(int ok)
{
    if (ok != 1) abort();
}

void kv_sha256_begin(kv_sha256_ctx *c)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    must(md != NULL);
    must(EVP_DigestInit_ex(md, EVP_sha256(), NULL));
    c->impl = md;
}

void kv_sha256_add(kv_sha256_ctx *c, const void *p, size_t n)
{
    must(EVP_DigestUpdate((EVP_MD_CTX *)c->impl, p, n));
}

void kv_sha256_end(kv_sha256_ctx *c, uint8_t out[32])
{
    EVP_MD_CTX *md = (EVP_MD_CTX *)c->impl;
    must(EVP_DigestFinal_ex(md, out, NULL));
    EVP_MD_CTX_free(md);
    c->impl = NULL;
}

void kv_sha256(const void *p, size_t n, uint8_t out[32])
{
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    kv_sha256_add(&c, p, n);
    kv_sha256_end(&c, out);
}

void kv_hex32(const uint8_t sha[32], char out[65])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[sha[i] >> 4];
        out[2 * i + 1] = digits[sha[i] & 15];
    }
    out[64] = '\0';
}
