#include "difftest/mutants.h"

#include <string.h>

const char *dt_tier_name(int tier)
{
    static const char *const names[DT_TIER_COUNT] = {"quick", "stream", "nightly"};
    return names[tier];
}

const dt_mutant *dt_mutants(int *n)
{
    static const dt_mutant table[] = {
#define MUTANT(id, side, family, op, head, klass, tier, equivalent, when, about)                                     \
    {#id, DT_MUTANT_##side, #family, #op, head, #klass, DT_TIER_##tier, equivalent, when, about},
#include "common/mutants.def"
#undef MUTANT
    };
    *n = (int)(sizeof table / sizeof *table);
    return table;
}

int dt_op_exists(const char *name)
{
    static const char *const names[] = {
#define OP(op, about) #op,
#include "difftest/op_names.def"
#undef OP
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) return 1;
    return 0;
}

const char *dt_mutant_outcome_name(int outcome)
{
    static const char *const names[] = {"found", "survived", "unreached", "fault"};
    return names[outcome];
}
