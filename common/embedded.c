/* embedded.c - the artifact that is part of the program: common/embedded/novel.kvm, trained by `make train-default`
 * (docs/default-model.md). The assembler copies the file as it is; the compiler's #embed is newer than C11. */
#include "common/model_private.h"

#include "common/kvm.h"

__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        ".global kv_novel_kvm\n"
        "kv_novel_kvm:\n"
        ".incbin \"common/embedded/novel.kvm\"\n"
        ".global kv_novel_kvm_end\n"
        "kv_novel_kvm_end:\n"
        ".byte 0\n"
        ".popsection\n");

extern const unsigned char kv_novel_kvm[], kv_novel_kvm_end[];

kv_status kv_model_embedded(const char *name, kv_model **out, kv_tokenizer **tok)
{
    kv_kvm *k;
    *out = NULL;
    *tok = NULL;
    KV_TRY(kv_kvm_parse(kv_novel_kvm, (size_t)((uintptr_t)kv_novel_kvm_end - (uintptr_t)kv_novel_kvm), name, &k));
    return kv_model_of_kvm(k, name, name, out, tok);
}
