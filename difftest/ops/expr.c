#include "difftest/ops/expr.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind {
    CONSTANT,
    INTEGER, /* int64_t at an offset into the arguments */
    DTYPE,   /* int32_t */
    PRESENT, /* a pointer: 1 unless it is NULL */
    NEGATE,
    NOT,
    CHOICE, /* left ? right : other */
    MIN,
    MAX,
    CDIV,
    MUL,
    DIV,
    MOD,
    ADD,
    SUB,
    SHL,
    SHR,
    LE,
    GE,
    LT,
    GT,
    EQ,
    NE,
    AND,
    OR
};

/* Longer spellings first, so that "<" does not take the half of "<=". */
static const struct {
    const char *spelling;
    int kind, rank;
} operators[] = {
    {"<<", SHL, 6}, {">>", SHR, 6}, {"<=", LE, 5}, {">=", GE, 5}, {"==", EQ, 4},
    {"!=", NE, 4},  {"&&", AND, 3}, {"||", OR, 2}, {"*", MUL, 8}, {"/", DIV, 8},
    {"%", MOD, 8},  {"+", ADD, 7},  {"-", SUB, 7}, {"<", LT, 5},  {">", GT, 5},
};
enum { RANK_CHOICE = 1 };

static const struct {
    const char *name;
    int64_t value;
} constants[] = {
#define C(name)     \
    {               \
#        name, name \
    }
    C(KVDK_F32), C(KVDK_F16),      C(KVDK_BF16),  C(KVDK_I32),      C(KVDK_I64),
    C(KVDK_U8),  C(KVDK_SINK),     C(KVDK_CACHE), C(KVDK_SELF),     C(KVDK_STORE),
    C(KVDK_ADD), C(KVDK_SILU_MUL), C(KVDK_RELU2), C(KVDK_ADJACENT), C(KVDK_HALF),
#undef C
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

typedef struct parser {
    const char *text;
    int at, depth;
    const dt_op_schema *op;
    dt_expr_pool *pool;
} parser;

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

static const char *divide(int kind, int64_t a, int64_t b, int64_t *out)
{
    if (b == 0) return "division by zero";
    if (a == INT64_MIN && b == -1) return "overflow";
    *out = kind == MOD ? a % b : a / b + (kind == CDIV && a % b != 0 && (a < 0) == (b < 0));
    return NULL;
}

static const char *shift(int kind, int64_t a, int64_t b, int64_t *out)
{
    if (b < 0 || b > 62) return "a shift by less than 0 or more than 62";
    if (kind == SHR) *out = a >> b;
    return kind == SHL && __builtin_mul_overflow(a, INT64_C(1) << b, out) ? "overflow" : NULL;
}

/* NULL, or what is wrong. */
static const char *compute(int kind, int64_t a, int64_t b, int64_t *out)
{
    int over = 0;
    switch (kind) {
    case NEGATE:
        over = __builtin_sub_overflow(0, a, out);
        break;
    case NOT:
        *out = !a;
        break;
    case MIN:
        *out = a < b ? a : b;
        break;
    case MAX:
        *out = a > b ? a : b;
        break;
    case MUL:
        over = __builtin_mul_overflow(a, b, out);
        break;
    case ADD:
        over = __builtin_add_overflow(a, b, out);
        break;
    case SUB:
        over = __builtin_sub_overflow(a, b, out);
        break;
    case SHL:
    case SHR:
        return shift(kind, a, b, out);
    case LE:
        *out = a <= b;
        break;
    case GE:
        *out = a >= b;
        break;
    case LT:
        *out = a < b;
        break;
    case GT:
        *out = a > b;
        break;
    case EQ:
        *out = a == b;
        break;
    case NE:
        *out = a != b;
        break;
    case AND:
        *out = a && b;
        break;
    case OR:
        *out = a || b;
        break;
    default:
        return divide(kind, a, b, out);
    }
    return over ? "overflow" : NULL;
}

/* ---- compiling --------------------------------------------------------------------------------------------------- */

static kv_status fail(const parser *p, int at, const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "'%s': %s at character %d", p->text, what, at + 1);
}

static kv_status add(dt_expr_pool *pool, dt_expr_node node, int32_t *out)
{
    if (pool->n == pool->cap) {
        const int32_t cap = pool->cap ? 2 * pool->cap : 64;
        dt_expr_node *more = cap <= DT_EXPR_LIST ? realloc(pool->node, (size_t)cap * sizeof *more) : NULL;
        if (!more) return kv_fail(KV_ERR_NOMEM, "no memory for so many expressions");
        pool->node = more;
        pool->cap = cap;
    }
    *out = pool->n;
    pool->node[pool->n++] = node;
    return KV_OK;
}

/* A node over operands; a constant when they all are. right: -1 for one operand. */
static kv_status combine(parser *p, int kind, int at, int32_t left, int32_t right, int32_t *out)
{
    const dt_expr_node *node = p->pool->node, *b = right < 0 ? NULL : &node[right];
    int64_t value = 0;
    if (node[left].kind != CONSTANT || (b && b->kind != CONSTANT))
        return add(p->pool, (dt_expr_node){kind, at, left, right, -1, 0}, out);
    const char *why = compute(kind, node[left].value, b ? b->value : 0, &value);
    if (why) return fail(p, at, why);
    return add(p->pool, (dt_expr_node){CONSTANT, at, -1, -1, -1, value}, out);
}

static void skip_blanks(parser *p)
{
    while (p->text[p->at] == ' ')
        p->at++;
}

static int takes(parser *p, const char *word)
{
    skip_blanks(p);
    if (strncmp(p->text + p->at, word, strlen(word)) != 0) return 0;
    p->at += (int)strlen(word);
    return 1;
}

static int is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static kv_status parse_number(parser *p, int32_t *out)
{
    const int at = p->at, base = p->text[at] == '0' && (p->text[at + 1] | 32) == 'x' ? 16 : 10;
    int64_t value = 0;
    int n = 0;
    for (p->at += base == 16 ? 2 : 0;; p->at++, n++) {
        const char c = p->text[p->at], low = (char)(c | 32);
        const int digit = is_digit(c) ? c - '0' : base == 16 && low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
        if (digit < 0) break;
        if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value))
            return fail(p, at, "a number beyond 64 bits");
    }
    if (n == 0 || is_letter(p->text[p->at]) || p->text[p->at] == '.') return fail(p, at, "no whole number");
    return add(p->pool, (dt_expr_node){CONSTANT, at, -1, -1, -1, value}, out);
}

/* The names of an operation, for a message. */
static kv_status fail_name(const parser *p, int at, int n)
{
    char known[700];
    size_t used = 0;
    for (int i = 0; i < p->op->n_params + p->op->n_tensors && used < sizeof known; i++) {
        const dt_op_param *param = i < p->op->n_params ? &p->op->params[i] : NULL;
        const char *name = param ? param->name : p->op->tensors[i - p->op->n_params].name;
        if (param && param->is_real) continue;
        used +=
            (size_t)snprintf(known + used, sizeof known - used, "%s%s%s", used ? ", " : "", name, param ? "" : ".*");
    }
    return kv_fail(KV_ERR_FORMAT, "'%s': unknown name '%.*s'; %s knows %s (.dim0-3 .stride0-3 .dtype .present)",
                   p->text, n < 60 ? n : 60, p->text + at, p->op->name, known);
}

static int same(const char *word, int n, const char *name)
{
    return (size_t)n == strlen(name) && memcmp(word, name, (size_t)n) == 0;
}

/* What may stand behind "TENSOR." */
static int find_member(const char *member, size_t offset, dt_expr_node *node)
{
    static const char *const dims[] = {"dim0", "dim1", "dim2", "dim3", "stride0", "stride1", "stride2", "stride3"};
    for (size_t i = 0; i < COUNT(dims); i++)
        if (strcmp(member, dims[i]) == 0) {
            node->kind = INTEGER;
            node->value = (int64_t)(offset + (i < 4 ? offsetof(kvdk_tensor, dim) : offsetof(kvdk_tensor, stride)) +
                                    i % 4 * sizeof(int64_t));
            return 1;
        }
    const int is_dtype = strcmp(member, "dtype") == 0;
    node->kind = is_dtype ? DTYPE : PRESENT;
    node->value = (int64_t)(offset + (is_dtype ? offsetof(kvdk_tensor, dtype) : offsetof(kvdk_tensor, data)));
    return is_dtype || strcmp(member, "present") == 0;
}

/* word: a name of n characters. */
static kv_status find_name(const parser *p, int at, int n, dt_expr_node *node)
{
    const char *word = p->text + at;
    for (int i = 0; i < COUNT(constants); i++)
        if (same(word, n, constants[i].name)) {
            node->value = constants[i].value;
            return KV_OK;
        }
    for (int i = 0; i < p->op->n_params; i++) {
        if (!same(word, n, p->op->params[i].name)) continue;
        if (p->op->params[i].is_real) return fail(p, at, "no whole number, as it must be here,");
        node->kind = INTEGER;
        node->value = (int64_t)p->op->params[i].offset;
        return KV_OK;
    }
    for (int i = 0; i < p->op->n_tensors; i++) {
        const dt_op_slot *slot = &p->op->tensors[i];
        const int k = (int)strlen(slot->name);
        char member[16];
        if (n <= k + 1 || n - k > 15 || strncmp(word, slot->name, (size_t)k) != 0 || word[k] != '.') continue;
        snprintf(member, sizeof member, "%.*s", n - k - 1, word + k + 1);
        if (find_member(member, slot->offset, node)) return KV_OK;
    }
    return fail_name(p, at, n);
}

static kv_status parse_rank(parser *p, int rank, int32_t *out);

/* The two arguments of a function, behind its name. */
static kv_status parse_call(parser *p, int kind, int at, int32_t *out)
{
    int32_t a, b;
    if (!takes(p, "(")) return fail(p, p->at, "'(' is missing");
    KV_TRY(parse_rank(p, RANK_CHOICE, &a));
    if (!takes(p, ",")) return fail(p, p->at, "',' is missing");
    KV_TRY(parse_rank(p, RANK_CHOICE, &b));
    if (!takes(p, ")")) return fail(p, p->at, "')' is missing");
    return combine(p, kind, at, a, b, out);
}

static kv_status parse_word(parser *p, int32_t *out)
{
    static const struct {
        const char *name;
        int kind;
    } functions[] = {{"min", MIN}, {"max", MAX}, {"cdiv", CDIV}};
    const int at = p->at;
    dt_expr_node node = {CONSTANT, at, -1, -1, -1, 0};
    while (is_letter(p->text[p->at]) || is_digit(p->text[p->at]) || p->text[p->at] == '.')
        p->at++;
    for (int i = 0; i < COUNT(functions); i++)
        if (same(p->text + at, p->at - at, functions[i].name)) return parse_call(p, functions[i].kind, at, out);
    KV_TRY(find_name(p, at, p->at - at, &node));
    return add(p->pool, node, out);
}

static kv_status parse_value(parser *p, int32_t *out)
{
    skip_blanks(p);
    const int at = p->at;
    const char c = p->text[at];
    if (is_digit(c)) return parse_number(p, out);
    if (is_letter(c)) return parse_word(p, out);
    if (c != '-' && c != '!' && c != '(') return fail(p, at, "a value is missing");
    if (++p->depth > DT_EXPR_DEPTH) return fail(p, at, "nested too deeply");
    p->at++;
    if (c == '(') {
        KV_TRY(parse_rank(p, RANK_CHOICE, out));
        if (!takes(p, ")")) return fail(p, p->at, "')' is missing");
    } else {
        int32_t operand;
        KV_TRY(parse_value(p, &operand));
        KV_TRY(combine(p, c == '-' ? NEGATE : NOT, at, operand, -1, out));
    }
    p->depth--;
    return KV_OK;
}

/* The operator that comes next, if it binds at least so tightly; -1. */
static int next_operator(parser *p, int rank)
{
    skip_blanks(p);
    for (int i = 0; i < COUNT(operators); i++)
        if (strncmp(p->text + p->at, operators[i].spelling, strlen(operators[i].spelling)) == 0)
            return operators[i].rank >= rank ? i : -1;
    return -1;
}

static kv_status parse_choice(parser *p, int32_t condition, int32_t *out)
{
    int32_t yes, no;
    const int at = p->at;
    KV_TRY(parse_rank(p, RANK_CHOICE, &yes));
    if (!takes(p, ":")) return fail(p, p->at, "':' is missing");
    KV_TRY(parse_rank(p, RANK_CHOICE, &no));
    return add(p->pool, (dt_expr_node){CHOICE, at, condition, yes, no, 0}, out);
}

static kv_status parse_rank(parser *p, int rank, int32_t *out)
{
    int32_t right;
    if (++p->depth > DT_EXPR_DEPTH) return fail(p, p->at, "nested too deeply");
    KV_TRY(parse_value(p, out));
    for (int i; (i = next_operator(p, rank)) >= 0;) {
        const int at = p->at;
        p->at += (int)strlen(operators[i].spelling);
        KV_TRY(parse_rank(p, operators[i].rank + 1, &right));
        KV_TRY(combine(p, operators[i].kind, at, *out, right, out));
    }
    if (rank == RANK_CHOICE && takes(p, "?")) KV_TRY(parse_choice(p, *out, out));
    p->depth--;
    return KV_OK;
}

kv_status dt_expr_compile(const char *text, const dt_op_schema *op, dt_expr_pool *pool, dt_expr *out)
{
    parser p = {.text = text, .op = op, .pool = pool};
    *out = (dt_expr){text, -1};
    const size_t n = strlen(text);
    if (n > DT_EXPR_TEXT) return kv_fail(KV_ERR_FORMAT, "an expression of more than %d characters", DT_EXPR_TEXT);
    for (size_t i = 0; i < n; i++)
        if (text[i] < 0x20 || text[i] > 0x7e)
            return kv_fail(KV_ERR_FORMAT, "character %zu of an expression is none that it may have", i + 1);
    KV_TRY(parse_rank(&p, RANK_CHOICE, &out->root));
    skip_blanks(&p);
    return text[p.at] ? fail(&p, p.at, "an operator or the end is expected") : KV_OK;
}

kv_status dt_expr_constant(int64_t value, dt_expr_pool *pool, dt_expr *out)
{
    out->text = "a number";
    return add(pool, (dt_expr_node){CONSTANT, 0, -1, -1, -1, value}, &out->root);
}

int dt_expr_is_constant(const dt_expr_pool *pool, const dt_expr *e, int64_t *out)
{
    if (e->root < 0 || pool->node[e->root].kind != CONSTANT) return 0;
    *out = pool->node[e->root].value;
    return 1;
}

/* ---- evaluation -------------------------------------------------------------------------------------------------- */

/* A member of the arguments. */
static int64_t member(const dt_expr_node *node, const void *args)
{
    const char *at = (const char *)args + node->value;
    if (node->kind == PRESENT) return *(void *const *)(const void *)at != NULL;
    return node->kind == DTYPE ? *(const int32_t *)(const void *)at : *(const int64_t *)(const void *)at;
}

/* Of two branches, and of && and ||, only what is needed. NULL, or what is wrong; *at is where. */
static const char *evaluate(const dt_expr_node *list, int32_t i, const void *args, int64_t *out, int *at)
{
    const dt_expr_node *node = &list[i];
    int64_t a, b = 0;
    const char *why;
    if (node->kind == CONSTANT) return *out = node->value, NULL;
    if (node->kind <= PRESENT) return *out = member(node, args), NULL;
    if ((why = evaluate(list, node->left, args, &a, at))) return why;
    if (node->kind == CHOICE) return evaluate(list, a ? node->right : node->other, args, out, at);
    if ((node->kind == AND && !a) || (node->kind == OR && a)) return *out = node->kind == OR, NULL;
    if (node->right >= 0 && (why = evaluate(list, node->right, args, &b, at))) return why;
    *at = node->at;
    return compute(node->kind, a, b, out);
}

kv_status dt_expr_value(const dt_expr_pool *pool, const dt_expr *e, const void *args, int64_t *out)
{
    int at = 0;
    const char *why = evaluate(pool->node, e->root, args, out, &at);
    return why ? kv_fail(KV_ERR_CONTRACT, "'%s': %s at character %d", e->text, why, at + 1) : KV_OK;
}

void dt_expr_pool_free(dt_expr_pool *pool)
{
    free(pool->node);
    *pool = (dt_expr_pool){0};
}
