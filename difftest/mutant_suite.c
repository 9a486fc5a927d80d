/* mutant_suite.c - the cases that every planted bug is put through, cheapest first. They are a fixed list: a tester
 * does not know the bug. Each is a case of `kvdiff run`, with its engine and its verdicts. */
#include "difftest/mutants.h"

#include "difftest/engine.h"
#include "difftest/locate.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_POLICIES = 14 };

/* Policies on one model with one way of feeding. */
typedef struct group {
    int32_t tier;
    const char *model, *corpus;
    int64_t tokens;
    int32_t q, window, mode;
    const char *options; /* of the emulator: "" or "seed=3"; the reference has none */
    const char *policies[MAX_POLICIES];
} group;

static const group groups[] = {
    /* every selection once, steps that divide nothing, a second text behind a reset */
    {DT_TIER_QUICK,
     "nano",
     "book",
     100,
     7,
     50,
     DT_MODE_FREE,
     "",
     {"full", "sink:cap=20,sinks=4", "sliding:cap=24", "cascade:cap=21,n=3,sinks=3", "h2o:cap=24", "tova:cap=24",
      "sliding:cap=24,pos=absolute", "sliding:cap=24,pos=saturate", "dilated:every=3,sinks=2,window=20"}},
    {DT_TIER_QUICK, "nano-u", "book", 60, 4, 30, DT_MODE_FREE, "", {"full", "sink:cap=16"}},
    {DT_TIER_QUICK, "nano-a", "book", 60, 4, 30, DT_MODE_FREE, "", {"full", "sink:cap=16"}},
    {DT_TIER_QUICK, "nano-b", "book", 60, 4, 30, DT_MODE_FREE, "", {"full", "sink:cap=16"}},
    /* coded rows: every other bug of them would wait for the end of the list */
    {DT_TIER_QUICK,
     "nano",
     "book",
     120,
     16,
     0,
     DT_MODE_FREE,
     "",
     {"full+kvarn:tile=32", "full+kivi:group=16,residual=32",
      "sliding:cap=64,pos=absolute+kivi:bits=4,group=16,residual=16",
      "sliding:cap=64,pos=absolute+kvarn:tile=32,dialect=B,vbits=4"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     80,
     5,
     0,
     DT_MODE_LOCKED,
     "",
     {"sink:cap=20", "cascade:cap=24,n=2", "h2o:cap=24", "full+f16", "sink:cap=20+bf16"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     100,
     64,
     0,
     DT_MODE_FREE,
     "",
     {"full", "cascade:cap=32,reduce=mean", "cascade:cap=32,reduce=median", "snapkv:cap=40,prompt=64,window=8",
      "pyramid:cap=24,prompt=64,window=8,beta=4", "h2o:cap=24,gqa=max"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     80,
     9,
     0,
     DT_MODE_FOLLOW,
     "",
     {"h2o:cap=24", "cascade:cap=24,n=2", "sink:cap=20", "cascade:cap=24,n=2,homog=1"}},
    /* every acceptance that the others do not use */
    {DT_TIER_QUICK,
     "nano",
     "book",
     90,
     6,
     0,
     DT_MODE_FREE,
     "",
     {"cascade:cap=24,n=4,accept=pow3", "cascade:cap=24,n=4,accept=pow4", "cascade:cap=24,n=4,accept=iplus1",
      "cascade:cap=24,n=4,accept=1-then-2", "cascade:cap=24,n=4,accept=pow2-1", "cascade:cap=24,n=4,accept=pow2-1-4",
      "cascade:cap=24,n=4,accept=pow2-2-4", "cascade:cap=24,n=4,accept=pow2-3-4"}},
    /* windows that begin behind an import */
    {DT_TIER_QUICK, "nano", "book", 80, 64, 0, DT_MODE_LOCKED, "", {"xwindow:window=24,stride=8,cache=24"}},
    {DT_TIER_QUICK, "sharp", "book", 100, 8, 0, DT_MODE_FREE, "", {"cascade:cap=24", "h2o:cap=24", "tova:cap=24"}},
    {DT_TIER_QUICK, "nano", "book", 80, 1, 0, DT_MODE_FREE, "", {"full", "cascade:cap=24,n=3,sinks=4,eager=0"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     60,
     13,
     0,
     DT_MODE_FREE,
     "seed=3",
     {"full", "cascade:cap=24,n=3", "h2o:cap=24", "full+kvarn:tile=32"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     120,
     50,
     0,
     DT_MODE_FREE,
     "",
     {"full+kvarn:tile=32", "full+kivi:group=16,residual=32"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     100,
     64,
     0,
     DT_MODE_FREE,
     "",
     {"xwindow:window=24,stride=8,cache=24", "xwindow:window=24,stride=8,cache=24,ver=published"}},
    {DT_TIER_QUICK, "nano", "book", 640, 96, 0, DT_MODE_FREE, "", {"full"}},
    {DT_TIER_QUICK, "nano", "passkey:len=560,depth=50,seeds=1", 0, 80, 0, DT_MODE_FREE, "", {"sink:cap=40"}},
    /* every word and number of the parameters that no case above uses */
    {DT_TIER_QUICK,
     "nano",
     "book",
     90,
     11,
     0,
     DT_MODE_FREE,
     "",
     {"cascade:cap=24,beta=0.9", "cascade:cap=24,compat=shifted", "cascade:cap=24,compat=reversed",
      "cascade:cap=24,compat=strict", "cascade:cap=24,score=f16", "cascade:cap=24,select=newest",
      "cascade:cap=24,select=oldest", "cascade:n=2,preset=paper,window=10", "cascade:n=2,preset=code,window=10",
      "cascade:cap=24,n=1,sinks=0", "cascade:cap=24,homog=1,reduce=mean"}},
    {DT_TIER_QUICK, "nano-u", "book", 330, 300, 0, DT_MODE_FREE, "", {"full", "xwindow:window=300,stride=20,cache=48,pred=carry"}},
    {DT_TIER_QUICK, "nano", "book", 60, 1, 0, DT_MODE_FREE, "", {"cascade:cap=24,compat=shifted", "cascade:cap=24,compat=reversed"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     90,
     11,
     0,
     DT_MODE_FREE,
     "",
     {"h2o:cap=12,heavy=8,recent=4", "h2o:cap=12,heavy=0,recent=12", "h2o:cap=12,heavy=12,recent=0", "tova:cap=1",
      "sink:cap=1,sinks=0", "sliding:cap=2", "dilated:every=1,sinks=0,window=5", "dilated:every=16,window=3",
      "full+bf16", "tova:cap=24+f16", "xwindow:cache=0,stride=8,window=24", "xwindow:cache=24,layers=2,stride=8,window=24"}},
    {DT_TIER_QUICK,
     "nano",
     "book",
     160,
     150,
     0,
     DT_MODE_FREE,
     "",
     {"snapkv:cap=100,kernel=1,prompt=150,window=40", "pyramid:beta=1,cap=60,kernel=7,prompt=150,window=8",
      "full+kvarn:iters=1,kbits=2,tie=rel,tile=64,vbits=3", "full+kvarn:kbits=3,tile=128,vbits=8",
      "full+kvarn:dialect=B,iters=2,kbits=5,tile=32,tie=rel,vbits=6", "full+kivi:bits=3,group=8,residual=8",
      "full+kivi:bits=5,group=16,residual=32", "full+kivi:bits=6,group=4,residual=8", "full+kivi:bits=8,group=32,residual=64"}},
    {DT_TIER_QUICK, "nano-a", "book", 90, 40, 0, DT_MODE_FREE, "", {"full+kivi:bits=4,group=16,residual=32"}},
    {DT_TIER_QUICK,
     "nano-u",
     "book",
     80,
     40,
     0,
     DT_MODE_FREE,
     "",
     {"h2o:cap=24", "tova:cap=24", "xwindow:cache=24,pred=carry,stride=8,window=24"}},
    /* more entries than a byte counts */
    {DT_TIER_QUICK,
     "nano",
     "book",
     330,
     70,
     0,
     DT_MODE_FREE,
     "",
     {"sink:cap=150", "sliding:cap=150,pos=saturate", "cascade:cap=160,n=2", "tova:cap=140", "dilated:every=2,window=140",
      "xwindow:cache=150,stride=30,window=140", "snapkv:cap=150,prompt=200,window=8"}},
    /* sums over more than one block of queries */
    {DT_TIER_QUICK, "nano", "book", 330, 280, 0, DT_MODE_FREE, "", {"h2o:cap=64", "cascade:cap=64", "tova:cap=40"}},
    /* longer texts, other steps and sizes */
    {DT_TIER_STREAM,
     "nano",
     "book",
     600,
     17,
     0,
     DT_MODE_FREE,
     "seed=5",
     {"sink:cap=252", "sliding:cap=256", "cascade:cap=256", "h2o:cap=256", "tova:cap=256", "full+f16", "full+bf16",
      "full+kvarn:tile=128", "full+kivi:residual=128,group=32", "snapkv:cap=256,prompt=512",
      "pyramid:cap=256,prompt=512", "xwindow:window=64,stride=8,cache=48"}},
    {DT_TIER_STREAM,
     "nano-u",
     "book",
     300,
     11,
     0,
     DT_MODE_FREE,
     "",
     {"full", "sink:cap=44", "cascade:cap=48", "h2o:cap=48", "xwindow:window=32,stride=8,cache=48,pred=carry"}},
    {DT_TIER_NIGHTLY,
     "nano",
     "book",
     2048,
     64,
     0,
     DT_MODE_FREE,
     "seed=2",
     {"full", "sink:cap=252", "sliding:cap=256", "cascade:cap=256", "h2o:cap=256", "tova:cap=256"}},
    {DT_TIER_NIGHTLY, "nano-a", "book", 2048, 64, 0, DT_MODE_LOCKED, "", {"sink:cap=252", "cascade:cap=256,beta=0.99"}},
};

enum { N_GROUPS = sizeof groups / sizeof *groups, CONTROL_STEP = 64 };

/* A suite under way. */
typedef struct course {
    const dt_suite_job *job;
    int fd;
    double start;
    dt_suite_report report;
    dt_judges judges;
    int alarm; /* a case was not passed */
    dt_plan plan;
    kv_backend as_bounded; /* the library's table with another promise */
    dt_engine engine;
    kv_progress progress;
} course;

static volatile sig_atomic_t never; /* a suite is ended from outside */

/* The group's policies that match the pattern: all without one. */
static int policies_of(const group *g, const char *pattern, const char *policies[])
{
    int n = 0;
    for (size_t i = 0; i < sizeof g->policies / sizeof *g->policies && g->policies[i]; i++)
        if (!pattern || fnmatch(pattern, g->policies[i], 0) == 0) policies[n++] = g->policies[i];
    return n;
}

int dt_suite_size(int32_t tier, const char *pattern)
{
    const char *policies[MAX_POLICIES];
    int n = 0;
    for (int i = 0; i < N_GROUPS; i++)
        n += groups[i].tier <= tier ? policies_of(&groups[i], pattern, policies) : 0;
    return n;
}

static void send(const course *c, const dt_suite_report *r)
{
    if (write(c->fd, r, sizeof *r) != (ssize_t)sizeof *r) _exit(0); /* nobody listens any more */
}

static void copy(char *dst, size_t size, const char *src)
{
    if (src != dst) snprintf(dst, size, "%s", src ? src : "");
}

/* The first alarm is the one that counts. */
static void raise_alarm(course *c, int32_t status, int64_t pos, const char *key, const char *reason, const char *repro)
{
    dt_suite_report *r = &c->report;
    if (c->alarm) return;
    c->alarm = 1;
    r->status = status;
    r->first_pos = pos;
    r->seconds = kv_now() - c->start;
    copy(r->key, sizeof r->key, key);
    copy(r->reason, sizeof r->reason, reason);
    copy(r->repro, sizeof r->repro, repro);
}

static void on_rows(void *arg, const dt_observed *o)
{
    course *c = arg;
    dt_judges_rows(&c->judges, o->ref, o->got, o->rows, o->vocab, o->targets);
}

static void on_finished(void *arg, const dt_case *done)
{
    course *c = arg;
    dt_judges_end_case(&c->judges);
    if (done->status != DT_CASE_PASS)
        raise_alarm(c, done->status, done->first_bad_pos, done->key, done->reason, done->repro);
}

/* The judges have all spoken, too. */
static int is_settled(const course *c)
{
    int all = 1;
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        all &= c->judges.alarm[i];
    return c->alarm && (all || !c->job->judges);
}

/* *n: policies; 0: nothing of the group is asked for. */
static kv_status fill_options(const course *c, const group *g, dt_options *o, int *n)
{
    const char *policies[MAX_POLICIES];
    char device[PATH_MAX + 64];
    dt_options_init(o);
    o->model = g->model;
    o->tokens = g->tokens;
    o->q = g->q;
    o->mode = g->mode;
    o->window = g->window;
    o->threads = 1;
    o->keep = DT_KEEP_NONE;
    o->digest_every = c->job->thorough ? 1 : 64;
    const char *seed = c->job->side == DT_MUTANT_REF ? "" : c->job->thorough && !*g->options ? "seed=9" : g->options;
    snprintf(device, sizeof device, "%s%s%s%s%s%s", c->job->library, c->job->bug || *seed ? ":" : "",
             c->job->bug ? "mutant=" : "", c->job->bug ? c->job->bug : "", c->job->bug && *seed ? "," : "", seed);
    KV_TRY(dt_list_add(&o->devices, device, strlen(device)));
    KV_TRY(dt_list_add(&o->corpora, g->corpus, strlen(g->corpus)));
    *n = policies_of(g, c->job->cases, policies);
    for (int i = 0; i < *n; i++)
        KV_TRY(dt_list_add(&o->policies, policies[i], strlen(policies[i])));
    return KV_OK;
}

/* The alarm is on its way before locate takes the case up again: a bug may end the process there. */
static void blame(course *c, int doc, int policy)
{
    const dt_subject s = dt_subject_of(&c->plan, doc, policy, 0);
    dt_finding f = {0};
    send(c, &c->report);
    if (dt_locate(&s, &f) == KV_OK && f.found != DT_FOUND_NOTHING) {
        copy(c->report.op, sizeof c->report.op, f.op);
        copy(c->report.klass, sizeof c->report.klass, f.klass);
        c->report.head = f.head;
    }
    dt_finding_free(&f);
}

/* The same plan with the unmutated library works: a side that cannot be opened is the bug's doing. */
static kv_status run_cases(course *c, int follows)
{
    static const int todo[1] = {1};
    const dt_observer observer = {on_rows, on_finished, c};
    kv_status st = KV_OK;
    c->engine = (dt_engine){.plan = &c->plan, .observer = &observer, .stop = &never, .progress = &c->progress};
    if (follows && !(c->plan.sides[0].backend->caps & KV_CAP_FOLLOW))
        return KV_OK; /* the reference decides by itself */
    st = dt_engine_open(&c->engine);
    for (int d = 0; d < c->plan.n_docs && st == KV_OK; d++)
        st = dt_engine_measure(&c->engine, d);
    dt_own_error_done(&c->engine.own);
    for (int i = 0; i < c->plan.n_policies && st == KV_OK; i++)
        for (int d = 0; d < c->plan.n_docs && st == KV_OK && !is_settled(c); d++) {
            c->report.begins = 1;
            c->report.at++;
            dt_plan_key(&c->plan, d, i, c->plan.sides[0].name, c->report.key, sizeof c->report.key);
            if (!c->alarm) send(c, &c->report);
            c->report.begins = 0;
            c->report.cases++;
            const int before = c->alarm;
            st = dt_engine_run(&c->engine, d, i, todo);
            if (st == KV_OK && c->alarm > before && c->job->locate) blame(c, d, i);
        }
    dt_engine_close(&c->engine);
    return st;
}

static kv_status run_planned(course *c, const group *g, const dt_options *o)
{
    kv_status st = dt_plan_make(o, &c->plan);
    if (st == KV_OK && c->job->bounded) {
        c->as_bounded = *c->plan.sides[0].backend;
        c->as_bounded.contract = KV_CONTRACT_BOUNDED;
        c->plan.sides[0].backend = &c->as_bounded;
    }
    if (st == KV_OK) st = run_cases(c, g->mode == DT_MODE_FOLLOW);
    dt_plan_free(&c->plan);
    return st;
}

static kv_status run_group(course *c, const group *g)
{
    dt_options o;
    int n;
    kv_status st = fill_options(c, g, &o, &n);
    kv_progress_begin(&c->progress, "tok", 0, 0);
    if (st == KV_OK && n) st = run_planned(c, g, &o);
    dt_options_free(&o);
    return st;
}

/* Texts of job->tokens tokens in all under every selection: for the negative control. */
static kv_status run_control(course *c)
{
    static const char *const policies[] = {"full",
                                           "sink:cap=60",
                                           "sliding:cap=64",
                                           "cascade:cap=64",
                                           "h2o:cap=64",
                                           "tova:cap=64",
                                           "dilated:every=16,window=48",
                                           "sliding:cap=128,pos=absolute+kvarn:tile=32",
                                           "sliding:cap=128,pos=absolute+kivi:group=16,residual=32",
                                           "sink:cap=60+f16"};
    enum { N = sizeof policies / sizeof *policies, PIECE = 2000 };
    char seed[32], text[64];
    for (int64_t fed = 0, i = 0; fed < c->job->tokens && !c->alarm; i++) {
        const int64_t left = c->job->tokens - fed, n = left < PIECE ? left < 2 ? 2 : left : PIECE;
        snprintf(seed, sizeof seed, "seed=%lld", (long long)i);
        snprintf(text, sizeof text, "synth:bytes=%d,seed=%lld", 2 * PIECE, (long long)(i + 1));
        const group g = {DT_TIER_QUICK,
                         i % 5 == 4 ? "nano-b" : "nano",
                         text,
                         n,
                         CONTROL_STEP - (int32_t)(i % 7),
                         0,
                         DT_MODE_FREE,
                         seed,
                         {policies[i % 5 == 4 ? i % 4 : i % N]}};
        KV_TRY(run_group(c, &g));
        fed += n;
    }
    return KV_OK;
}

static kv_status run_suite(course *c)
{
    for (int i = 0; i < N_GROUPS && !is_settled(c); i++)
        if (groups[i].tier <= c->job->tier) KV_TRY(run_group(c, &groups[i]));
    return KV_OK;
}

kv_status dt_suite_run(const dt_suite_job *job, int fd)
{
    course c = {.job = job,
                .fd = fd,
                .start = kv_now(),
                .report = {.at = -1, .status = DT_CASE_PASS, .first_pos = -1, .head = -1}};
    const kv_status st = job->tokens ? run_control(&c) : run_suite(&c);
    if (st != KV_OK && st != KV_ERR_NOMEM && (job->bug || job->lenient))
        raise_alarm(&c, DT_CASE_ERROR, -1, c.report.key, kv_message(), "");
    else
        KV_TRY(st);
    if (!c.alarm) c.report.seconds = kv_now() - c.start;
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        c.report.judge[i] = c.judges.alarm[i];
    send(&c, &c.report);
    return KV_OK;
}
