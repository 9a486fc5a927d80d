#include "difftest/mutants.h"

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

const char *dt_mutant_outcome_name(int outcome)
{
    static const char *const names[] = {"found", "survived", "unreached", "fault"};
    return names[outcome];
}
