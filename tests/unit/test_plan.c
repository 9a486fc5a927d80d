/* A run before its first step: documents, limits, identity, and the command that repeats a case. */
#include "tests/unit/folderkit.h"

#include "difftest/plan.h"
#include "tests/unit/gguf_build.h"

static dt_options o;
static dt_plan p;

/* nano, policy full, the reference as its own device. */
static void ask(const char *spec)
{
    dt_options_init(&o);
    o.model = "nano";
    o.q = 16;
    assert_ok(dt_list_add(&o.corpora, spec, strlen(spec)));
    assert_ok(dt_list_add(&o.policies, "full", 4));
    assert_ok(dt_list_add(&o.devices, "ref", 3));
}

static void done(void)
{
    dt_plan_free(&p);
    dt_options_free(&o);
}

static void make(void) { assert_ok(dt_plan_make(&o, &p)); }

/* A folder of texts, with the manifest or without. */
static const char *texts(const char *manifest)
{
    static char dir[600];
    snprintf(dir, sizeof dir, "%s", in_folder("texts"));
    mkdir(dir, 0777);
    put_file("texts/alpha.txt", "one two three four five");
    put_file("texts/beta.txt", "six  seven\neight");
    put_file("texts/gamma-2.txt", "nine");
    remove(in_folder("texts/manifest.json"));
    if (manifest) put_file("texts/manifest.json", manifest);
    return dir;
}

static const char *small_model(void)
{
    gguf_build b = {.version = 3};
    const gb_llama_flaw none = {0};
    gb_llama(&b, &none);
    const char *path = in_folder("small.gguf");
    kvtest_write(path, b.p, b.n);
    gb_free(&b);
    return path;
}

/* ---- documents ------------------------------------------------------------------------------------------- */

static void documents_are_chosen_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *glob, *names;
    } tries[] = {{NULL, "alpha beta gamma-2 "}, {"*", "alpha beta gamma-2 "}, {"*a", "alpha beta "},
                 {"beta", "beta "}, {"?????", "alpha "}, {"[ag]*", "alpha gamma-2 "}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        char got[100] = "";
        ask(texts(NULL));
        if (tries[i].glob) assert_ok(dt_list_add(&o.docs, tries[i].glob, strlen(tries[i].glob)));
        make();
        for (int d = 0; d < p.n_docs; d++)
            strcat(strcat(got, p.docs[d].doc->name), " ");
        assert_string_equal(got, tries[i].names);
        done();
    }
    ask(texts(NULL));
    assert_ok(dt_list_add(&o.docs, "gamma*", 6));
    assert_ok(dt_list_add(&o.docs, "alpha", 5));
    make();
    assert_int_equal(p.n_docs, 2); /* either name will do; the corpus gives the order */
    assert_string_equal(p.docs[0].doc->name, "alpha");
    done();
    ask(texts(NULL));
    assert_ok(dt_list_add(&o.docs, "delta", 5));
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "no document matches --doc=delta");
    done();
}

static void words_are_those_of_the_text_that_is_scored(void **state)
{
    (void)state;
    ask(texts("[{\"file\": \"alpha.txt\", \"words\": 5}, {\"file\": \"beta.txt\", \"words\": 3}, {\"file\":"
              " \"gamma-2.txt\"}]"));
    make();
    assert_int_equal(p.docs[0].n_words, 5);
    assert_int_equal(p.docs[1].n_words, 3);
    assert_int_equal(p.docs[2].n_words, 1);
    done();
    static const int cut[][2] = {{1, 1}, {3, 1}, {4, 1}, {5, 2}, {7, 2}, {13, 3}, {14, 3}, {15, 4}};
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        ask(texts(NULL));
        o.tokens = cut[i][0]; /* bytes: nano's tokens */
        assert_ok(dt_list_add(&o.docs, "alpha", 5));
        make();
        assert_int_equal(dt_plan_tokens(&p, 0), cut[i][0]);
        assert_int_equal(p.docs[0].n_words, cut[i][1]);
        assert_int_equal(p.docs[0].n_text_bytes, cut[i][0] - 1); /* the first token is not predicted */
        done();
    }
    ask("passkey:len=800,depth=50,seeds=1");
    make();
    assert_int_equal(p.docs[0].n_words, -1);
    assert_int_equal(p.docs[0].n_text_bytes, -1);
    done();
}

static void half_windows_feed_whole_chunks(void **state)
{
    (void)state;
    ask("book");
    o.tokens = 150;
    o.window = 40;
    make();
    assert_int_equal(dt_plan_tokens(&p, 0), 120);
    assert_int_equal(p.docs[0].n_words, -1);
    assert_int_equal(p.docs[0].n_text_bytes, -1);
    done();
    ask("passkey:len=800,depth=50,seeds=1"); /* is one stream in any case */
    o.window = 40;
    make();
    assert_int_equal(dt_plan_tokens(&p, 0), 800);
    done();
    ask(texts(NULL));
    o.window = 20;
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "'beta' has 16 tokens, fewer than one window of 20");
    done();
}

/* ---- limits ---------------------------------------------------------------------------------------------- */

/* The small model was trained for 128 positions. */
static void a_context_that_is_too_long_is_refused_unless_allowed(void **state)
{
    (void)state;
    const char *model = small_model();
    static const struct {
        const char *policy;
        int64_t tokens;
        int32_t window;
        int allow, fits;
    } tries[] = {{"full", 128, 0, 0, 1}, {"full", 129, 0, 0, 0}, {"full", 129, 0, 1, 1}, {"full", 4000, 64, 0, 1},
                 {"sink:cap=100", 4000, 0, 0, 1}, {"sink:cap=120", 4000, 0, 0, 0},
                 {"sliding:cap=128", 4000, 0, 0, 1}, {"sliding:cap=64,pos=absolute", 4000, 0, 0, 0}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        ask("book");
        o.model = model;
        o.tokens = tries[i].tokens;
        o.window = tries[i].window;
        o.allow_long = tries[i].allow;
        dt_list_add(&o.policies, tries[i].policy, strlen(tries[i].policy));
        free(o.policies.v[0]);
        o.policies.v[0] = o.policies.v[1];
        o.policies.n = 1;
        if (tries[i].fits) make();
        else assert_refused(dt_plan_make(&o, &p), KV_ERR_CONTEXT, "was trained for 128");
        done();
    }
}

static void what_is_given_twice_is_refused(void **state)
{
    (void)state;
    ask("book");
    assert_ok(dt_list_add(&o.corpora, "book", 4));
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "--corpus=book is given twice");
    done();
    ask("book");
    assert_ok(dt_list_add(&o.policies, "full", 4));
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "--policy=full is given twice");
    done();
    ask("book");
    assert_ok(dt_list_add(&o.devices, "ref", 3));
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "--device=ref is given twice");
    done();
}

/* Other spellings of one thing would give two cases with one key. */
static void the_same_in_other_words_is_refused_as_well(void **state)
{
    (void)state;
    ask("book");
    assert_ok(dt_list_add(&o.policies, "sink:cap=40", 11));
    assert_ok(dt_list_add(&o.policies, "sink:sinks=4,cap=40", 19));
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "--policy=sink:sinks=4,cap=40 and --policy=sink:cap=40 are"
                                                       " both 'sink:cap=40'");
    done();
    ask("synth:bytes=1000,seed=3");
    assert_ok(dt_list_add(&o.corpora, "synth:seed=3,bytes=1000", 23));
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "both 'synth:bytes=1000,seed=3'");
    done();
    ask(texts(NULL));
    mkdir(in_folder("other"), 0777);
    mkdir(in_folder("other/texts"), 0777);
    put_file("other/texts/alpha.txt", "another alpha in another folder of the same name");
    assert_ok(dt_list_add(&o.corpora, in_folder("other/texts"), strlen(in_folder("other/texts"))));
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "both 'texts'");
    done();
}

static void models_need_one_vocabulary(void **state)
{
    (void)state;
    ask("book");
    o.device_model = small_model();
    assert_refused(dt_plan_make(&o, &p), KV_ERR_MISMATCH, "same vocabulary");
    done();
    ask("book");
    o.model = "tiny";
    assert_refused(dt_plan_make(&o, &p), KV_ERR_UNSUPPORTED, "has no tokenizer");
    done();
}

static void without_a_device_there_are_no_sides(void **state)
{
    (void)state;
    ask("book");
    make();
    assert_int_equal(p.n_sides, 1);
    done();
    ask("book");
    free(o.devices.v[0]);
    o.devices.n = 0;
    assert_ok(dt_list_add(&o.devices, "none", 4));
    make();
    assert_int_equal(p.n_sides, 0);
    done();
}

static kv_status plan_with(const char *spec, const char *policy)
{
    ask(spec);
    free(o.policies.v[0]);
    o.policies.v[0] = strdup(policy);
    return dt_plan_make(&o, &p);
}

/* A document that is shorter than the prompt of the policy cannot be fed. */
static void a_prompt_longer_than_a_document_is_refused(void **state)
{
    (void)state;
    const char *dir = texts(NULL); /* 23, 16 and 4 tokens */
    static const char *const names[] = {"snapkv", "pyramid"};
    for (int i = 0; i < 2; i++) {
        char policy[80];
        snprintf(policy, sizeof policy, "%s:cap=4,window=2,prompt=5", names[i]);
        assert_refused(plan_with(dir, policy), KV_ERR_USAGE, "needs a prompt of 5 tokens, and document 'gamma-2' has 4; use "
                                                             "prompt=4");
        done();
        ask(dir);
        assert_ok(dt_list_add(&o.docs, "[ab]*", 5));
        free(o.policies.v[0]);
        o.policies.v[0] = strdup(policy);
        make();
        done();
    }
    assert_ok(plan_with(dir, "snapkv:cap=4,window=2,prompt=4"));
    done();
    ask("book");
    o.window = 20;
    free(o.policies.v[0]);
    o.policies.v[0] = strdup("snapkv:cap=4,window=2,prompt=21");
    assert_refused(dt_plan_make(&o, &p), KV_ERR_USAGE, "feeds chunks of 20; use --window=22 or prompt=20");
    done();
}

static void a_policy_that_does_not_fit_the_model_is_refused(void **state)
{
    (void)state;
    assert_refused(plan_with("book", "full+kivi:group=3,residual=24,bits=4"), KV_ERR_USAGE, "group=3 does not divide");
    done();
    assert_refused(plan_with("book", "xwindow:window=8,stride=4,cache=4,layers=5"), KV_ERR_USAGE, "the model has 4");
    done();
}

/* ---- identity -------------------------------------------------------------------------------------------- */

static void the_key_names_everything_that_pairs_a_case_with_itself(void **state)
{
    (void)state;
    char key[DT_KEY_MAX];
    ask(texts(NULL));
    o.tokens = 20;
    make();
    dt_plan_key(&p, 0, 0, "emu:seed=3", key, sizeof key);
    assert_string_equal(key, "texts/alpha|nano|full|emu:seed=3|len=20|free|q=16");
    dt_plan_key(&p, 1, 0, NULL, key, sizeof key);
    assert_string_equal(key, "texts/beta|nano|full|none|len=16|free|q=16");
    done();
    ask("book");
    o.tokens = 100;
    o.window = 30;
    o.mode = DT_MODE_LOCKED;
    o.device_model = "nano";
    make();
    dt_plan_key(&p, 0, 0, "ref", key, sizeof key);
    assert_string_equal(key, "book/weigher|nano~nano|full|ref|len=90|locked,window=30|q=16");
    done();
}

static void fingerprint(uint8_t out[32], void (*change)(void))
{
    ask("book");
    o.tokens = 100;
    if (change) change();
    make();
    memcpy(out, p.fingerprint, 32);
    done();
}

static void longer(void) { o.tokens = 101; }
static void wider(void) { o.q = 17; }
static void locked(void) { o.mode = DT_MODE_LOCKED; }
static void chunked(void) { o.window = 50; }
static void fewer_rows(void) { o.keep = DT_KEEP_DIFF; }
static void more_digests(void) { o.digest_every = 1; }
static void every_event(void) { o.all_events = 1; }
static void long_allowed(void) { o.allow_long = 1; }
static void two_models(void) { o.device_model = "nano"; }
static void another_device(void) { assert_ok(dt_list_add(&o.devices, "ref64", 5)); }
static void another_policy(void) { assert_ok(dt_list_add(&o.policies, "sink:cap=9", 10)); }
static void another_corpus(void) { assert_ok(dt_list_add(&o.corpora, "synth:bytes=200", 15)); }

static void everything_that_decides_a_case_is_in_the_fingerprint(void **state)
{
    (void)state;
    static void (*const changes[])(void) = {NULL, longer, wider, locked, chunked, fewer_rows, more_digests,
                                            every_event, long_allowed, two_models, another_device, another_policy,
                                            another_corpus};
    enum { N = sizeof changes / sizeof *changes };
    uint8_t fp[N][32], again[32];
    for (int i = 0; i < N; i++) {
        fingerprint(fp[i], changes[i]);
        for (int k = 0; k < i; k++)
            if (memcmp(fp[i], fp[k], 32) == 0) fail_msg("changes %d and %d have one fingerprint", k, i);
    }
    fingerprint(again, NULL);
    assert_memory_equal(again, fp[0], 32);
}

static void another_text_is_another_plan(void **state)
{
    (void)state;
    uint8_t before[32];
    ask(put_file("t.txt", "the same length"));
    make();
    memcpy(before, p.fingerprint, 32);
    done();
    ask(put_file("t.txt", "the same letter"));
    make();
    assert_memory_not_equal(before, p.fingerprint, 32);
    done();
}

static void threads_label_and_caches_decide_nothing(void **state)
{
    (void)state;
    uint8_t a[32];
    fingerprint(a, NULL);
    ask("book");
    o.tokens = 100;
    o.threads = 7;
    o.label = "a name";
    o.db = "elsewhere.db";
    make();
    assert_memory_equal(a, p.fingerprint, 32);
    done();
}

static void the_command_repeats_one_case(void **state)
{
    (void)state;
    char text[DT_REPRO_MAX];
    ask("book");
    assert_ok(dt_list_add(&o.policies, "sink:cap=40,sinks=2", 19));
    o.tokens = 100;
    make();
    dt_plan_repro(&p, 0, 1, "emu:seed=3", text, sizeof text);
    assert_string_equal(text, "kvdiff run --model=nano --corpus=book --doc=weigher --policy=sink:cap=40,sinks=2"
                              " --device=emu:seed=3 --tokens=100 --q=16");
    done();
    ask("book");
    o.tokens = 100;
    o.window = 20;
    o.mode = DT_MODE_LOCKED;
    o.allow_long = 1;
    o.device_model = "nano";
    make();
    dt_plan_repro(&p, 0, 0, "./my side.so", text, sizeof text);
    assert_string_equal(text, "kvdiff run --model=nano --device-model=nano --corpus=book --doc=weigher --policy=full"
                              " --device='./my side.so' --tokens=100 --q=16 --mode=locked --window=20 --allow-long");
    done();
}

static void the_options_of_a_run_are_json(void **state)
{
    (void)state;
    ask("book");
    o.tokens = 100;
    o.allow_long = 1;
    make();
    char *json = dt_plan_options_json(&p);
    assert_non_null(json);
    assert_string_equal(json, "{\"all_events\":false,\"allow_long\":true,\"digest_every\":64,\"keep\":0,\"mode\":"
                              "\"free\",\"q\":16,\"tokens\":100,\"window\":0}");
    free(json);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_chosen_by_name),
        cmocka_unit_test(words_are_those_of_the_text_that_is_scored),
        cmocka_unit_test(half_windows_feed_whole_chunks),
        cmocka_unit_test(a_context_that_is_too_long_is_refused_unless_allowed),
        cmocka_unit_test(a_prompt_longer_than_a_document_is_refused),
        cmocka_unit_test(a_policy_that_does_not_fit_the_model_is_refused),
        cmocka_unit_test(what_is_given_twice_is_refused),
        cmocka_unit_test(the_same_in_other_words_is_refused_as_well),
        cmocka_unit_test(models_need_one_vocabulary),
        cmocka_unit_test(without_a_device_there_are_no_sides),
        cmocka_unit_test(the_key_names_everything_that_pairs_a_case_with_itself),
        cmocka_unit_test(everything_that_decides_a_case_is_in_the_fingerprint),
        cmocka_unit_test(another_text_is_another_plan),
        cmocka_unit_test(threads_label_and_caches_decide_nothing),
        cmocka_unit_test(the_command_repeats_one_case),
        cmocka_unit_test(the_options_of_a_run_are_json),
    };
    return cmocka_run_group_tests(tests, folderkit_make, folderkit_remove);
}
