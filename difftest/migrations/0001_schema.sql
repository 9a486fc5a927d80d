-- 0001: the whole schema. docs/results.md explains it for users.
--
-- Conventions. Times are UTC epoch seconds, durations milliseconds (_ms) or nanoseconds (ns), likelihoods
-- nats. `ref` is the reference, `got` the device under test. 64-bit digests and bit patterns are stored
-- as signed INTEGER with the same bits. NaN is stored as NULL; where a bit pattern decides, *_bits
-- stands beside the value. Fingerprints (fp, *_sha) are SHA-256. Enumerations are tables, so that a
-- later version adds a name by adding a row.

-- ---- names -------------------------------------------------------------------------------------

CREATE TABLE run_kind(
  name TEXT PRIMARY KEY,
  about TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO run_kind VALUES
  ('run', 'documents through the reference and devices'),
  ('ops', 'single operations against the reference'),
  ('stream', 'documents, token by token'),
  ('passkey', 'retrieval over length and depth'),
  ('locate', 'search for the first wrong value'),
  ('replay', 'one case again'),
  ('laws', 'properties of a cache that need no reference'),
  ('race', 'repeats under a perturbed schedule'),
  ('selftest', 'the tester tested'),
  ('mutate', 'planted bugs'),
  ('bench', 'measured speed'),
  ('surprisal', 'surprisal of words'),
  ('syntaxgym', 'syntactic test suites'),
  ('readingtimes', 'reading times'),
  ('train', 'training'),
  ('ttt', 'training at test time'),
  ('pack', 'quantising to an artifact');

CREATE TABLE run_status(
  name TEXT PRIMARY KEY,
  about TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO run_status VALUES
  ('running', 'not finished: alive, or killed without a word'),
  ('pass', 'every case checked, trusted and passed'),
  ('fail', 'a device broke its contract'),
  ('error', 'the run could not be carried out'),
  ('interrupted', 'stopped before the end; the same command resumes it'),
  ('timeout', 'stopped by its time limit'),
  ('vacuous', 'nothing was checked, or nothing that could be trusted'),
  ('inconclusive', 'the statistics did not settle it'),
  ('recorded', 'the reference alone: nothing was compared'),
  ('skipped', 'not applicable on this machine');

CREATE TABLE case_status(
  name TEXT PRIMARY KEY,
  about TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO case_status VALUES
  ('PASS', 'the contract holds'),
  ('FAIL', 'the contract is broken'),
  ('SKIP', 'not run'),
  ('UNSUPPORTED', 'the device refused a feature of the case'),
  ('UNTRUSTED', 'compared, but the outcome means nothing'),
  ('ERROR', 'could not be carried out'),
  ('TIMEOUT', 'took too long'),
  ('FLAKY', 'repeats disagree'),
  ('INCONCLUSIVE', 'the statistics did not settle it'),
  ('RECORDED', 'the reference alone: never counted as a pass'),
  ('XFAIL', 'failed, and a waiver expects it'),
  ('XPASS', 'passed although a waiver expects a failure');

CREATE TABLE contract(
  name TEXT PRIMARY KEY,
  about TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO contract VALUES
  ('bitexact', 'every output has the bits of the reference'),
  ('bounded', 'within a derived error bound'),
  ('statistical', 'only distributions are comparable');

CREATE TABLE klass(
  name TEXT PRIMARY KEY,
  about TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO klass VALUES
  ('rounding', 'within what rounding explains'),
  ('reassoc', 'another order of summation'),
  ('legal-tie', 'another victim, inside the error bound of the scores'),
  ('bug-numeric', 'wrong arithmetic'),
  ('bug-index', 'wrong element, head, slot or position'),
  ('bug-policy', 'wrong decision of the cache policy'),
  ('bug-race', 'repeats disagree'),
  ('nonfinite', 'NaN or infinity'),
  ('oob', 'memory outside the buffers'),
  ('stale-read', 'a value that should have been replaced'),
  ('unknown', 'not classified');

CREATE TABLE gate_verdict(
  name TEXT PRIMARY KEY,
  about TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO gate_verdict VALUES
  ('pass', 'the whole interval is below the margin'),
  ('fail', 'the whole interval is above the margin'),
  ('inconclusive', 'the interval crosses the margin'),
  ('improved', 'better by more than the margin');

CREATE TABLE event_kind( -- numbers of kv_event_kind
  kind INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  about TEXT NOT NULL) STRICT;
INSERT INTO event_kind VALUES
  (0, 'admit', 'token og enters at slot'),
  (1, 'evict', 'token og leaves from slot'),
  (2, 'move', 'token og goes on to slot'),
  (3, 'seal', 'the tile whose first token is og becomes coded');

CREATE TABLE tok_flag( -- bits of tok.flags
  bit INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  about TEXT NOT NULL) STRICT;
INSERT INTO tok_flag VALUES
  (1, 'top1', 'arg-max differs'),
  (2, 'top5', 'set of the five largest differs'),
  (4, 'nonfinite', 'NaN or infinity in a row of logits'),
  (8, 'state', 'state digests differ after the step of this token'),
  (16, 'bound', 'error bound exceeded'),
  (32, 'evict', 'decisions of the step of this token differ');

-- ---- provenance: what a number depends on ------------------------------------------------------

CREATE TABLE env(
  env_id INTEGER PRIMARY KEY,
  fp BLOB NOT NULL UNIQUE,        -- of the column json
  hostname TEXT, os TEXT, cpu_model TEXT,
  cpu_isa TEXT,                   -- vector extensions, space separated
  ncores INTEGER,
  gpu_name TEXT, gpu_uuid TEXT, sm TEXT, driver TEXT, cuda_rt TEXT, cuda_toolkit TEXT, ecc INTEGER,
  cc_version TEXT, nvcc_version TEXT, blas TEXT, sqlite_version TEXT, zstd_version TEXT,
  json TEXT NOT NULL CHECK(json_valid(json))) STRICT;

CREATE TABLE build(
  build_id INTEGER PRIMARY KEY,
  fp BLOB NOT NULL UNIQUE,        -- of commit, differences, compilers and flags
  git_commit TEXT NOT NULL,       -- 'unknown' without git
  git_branch TEXT,
  git_dirty INTEGER NOT NULL,     -- 1: sources differ from the commit
  dirty_diff_sha BLOB,            -- of the differences; NULL when clean
  commit_time INTEGER,
  cc_version TEXT, cflags TEXT, nvcc_version TEXT, nvccflags TEXT,
  built_at INTEGER) STRICT;       -- age of the program file

CREATE TABLE model(
  model_id INTEGER PRIMARY KEY,
  fp BLOB NOT NULL UNIQUE,        -- of weights_sha and config_json
  name TEXT NOT NULL,
  weights_sha BLOB NOT NULL,
  n_layer INTEGER, n_head INTEGER, n_kv_head INTEGER, d_head INTEGER, d_model INTEGER, vocab INTEGER,
  rope_dim INTEGER, rope_theta REAL,
  config_json TEXT CHECK(config_json IS NULL OR json_valid(config_json))) STRICT;
CREATE INDEX model_by_weights ON model(weights_sha);

CREATE TABLE policy(
  policy_id INTEGER PRIMARY KEY,
  fp BLOB NOT NULL UNIQUE,        -- of params_json and spec_version
  name TEXT NOT NULL,             -- canonical spelling
  selection TEXT NOT NULL, storage TEXT NOT NULL,
  params_json TEXT NOT NULL CHECK(json_valid(params_json)), -- every parameter, defaults included
  spec_version INTEGER NOT NULL) STRICT; -- of docs/policy

CREATE TABLE kernel(
  kernel_id INTEGER PRIMARY KEY,
  fp BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL, variant TEXT NOT NULL,
  op TEXT NOT NULL,               -- '*': a whole side
  is_reference INTEGER NOT NULL DEFAULT 0,
  contract TEXT NOT NULL REFERENCES contract,
  so_sha BLOB,                    -- of the shared object; NULL: linked into the program
  src_sha BLOB, cubin_sha BLOB, regs INTEGER, smem INTEGER) STRICT;

CREATE TABLE kernel_set(
  kernel_set_id INTEGER PRIMARY KEY,
  fp BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL) STRICT;     -- as in the key of a case

CREATE TABLE kernel_set_member(
  kernel_set_id INTEGER NOT NULL REFERENCES kernel_set,
  op TEXT NOT NULL,
  kernel_id INTEGER NOT NULL REFERENCES kernel,
  PRIMARY KEY(kernel_set_id, op)) STRICT, WITHOUT ROWID;

CREATE TABLE corpus(
  corpus_id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  generator TEXT,
  seed INTEGER,                   -- NULL: none
  manifest_sha BLOB NOT NULL UNIQUE) STRICT;

CREATE TABLE document( -- tokens of a document: another tokenizer or another cut is another row
  doc_id INTEGER PRIMARY KEY,
  corpus_id INTEGER NOT NULL REFERENCES corpus,
  ordinal INTEGER NOT NULL,
  title TEXT, n_bytes INTEGER,
  n_tok INTEGER NOT NULL,
  token_sha BLOB NOT NULL,
  UNIQUE(corpus_id, ordinal, token_sha)) STRICT;

-- ---- runs and cases ----------------------------------------------------------------------------

CREATE TABLE run(
  run_id INTEGER PRIMARY KEY,
  uuid TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL REFERENCES run_kind,
  status TEXT NOT NULL DEFAULT 'running' REFERENCES run_status,
  started_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,    -- last sign of life: begin, a case, end
  ended_at INTEGER,
  exit_code INTEGER,
  argv TEXT NOT NULL,
  seed INTEGER NOT NULL,
  label TEXT,
  options_json TEXT CHECK(options_json IS NULL OR json_valid(options_json)),
  plan_fp BLOB NOT NULL,          -- everything that decides the cases: the same plan resumes
  n_resumes INTEGER NOT NULL DEFAULT 0,
  host TEXT NOT NULL,             -- these five name the process that owns a running run
  boot_id TEXT NOT NULL,
  pid_ns INTEGER NOT NULL,
  pid INTEGER NOT NULL,
  pid_start INTEGER NOT NULL,     -- clock ticks after boot
  env_id INTEGER NOT NULL REFERENCES env,
  build_id INTEGER NOT NULL REFERENCES build,
  ci_url TEXT,
  parent_run_id INTEGER REFERENCES run,
  n_pass INTEGER NOT NULL DEFAULT 0, n_fail INTEGER NOT NULL DEFAULT 0, -- counts: set when it ends
  n_skip INTEGER NOT NULL DEFAULT 0, n_unsup INTEGER NOT NULL DEFAULT 0,
  n_untrust INTEGER NOT NULL DEFAULT 0, n_error INTEGER NOT NULL DEFAULT 0,
  n_timeout INTEGER NOT NULL DEFAULT 0, n_flaky INTEGER NOT NULL DEFAULT 0,
  n_inconclusive INTEGER NOT NULL DEFAULT 0, n_recorded INTEGER NOT NULL DEFAULT 0,
  n_xfail INTEGER NOT NULL DEFAULT 0, n_xpass INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX run_by_time ON run(kind, started_at);
CREATE INDEX run_by_build ON run(build_id, kind);
CREATE INDEX run_by_plan ON run(plan_fp);

CREATE TABLE kase( -- one document (or grid point) under one model, policy and device
  case_id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
  key TEXT NOT NULL,              -- corpus/doc|model|policy|device|len|mode|q: the join key across runs
  device TEXT NOT NULL,
  mode TEXT NOT NULL,             -- free, locked, follow
  q INTEGER NOT NULL,             -- tokens per step
  contract TEXT NOT NULL REFERENCES contract,
  contract_version INTEGER NOT NULL, -- of docs/numerics.md
  model_id INTEGER REFERENCES model,
  policy_id INTEGER REFERENCES policy,
  kernel_set_id INTEGER REFERENCES kernel_set, -- NULL: the reference alone; every *_got is NULL then
  doc_id INTEGER REFERENCES document,
  status TEXT NOT NULL REFERENCES case_status,
  reason TEXT,
  repro TEXT NOT NULL,            -- command line
  wall_ms REAL, ref_ms REAL, got_ms REAL,
  n_tok INTEGER NOT NULL DEFAULT 0, -- scored tokens
  n_words INTEGER,                -- of the scored text; NULL = unknown
  dropped_bytes INTEGER NOT NULL DEFAULT 0, -- bytes of the text that have no token
  sum_nll_ref REAL, sum_nll_got REAL, -- summed over tokens in token order
  sum_kl REAL, max_kl REAL,       -- KL(ref || got)
  n_top1_same INTEGER,            -- tokens whose arg-max agrees
  n_bitexact INTEGER,             -- tokens whose logits have the same bits
  max_ulp INTEGER,
  max_abs REAL,                   -- largest |difference| of a logit
  max_ratio REAL,                 -- error used / error allowed; NULL = no budget
  first_bad_pos INTEGER,          -- first token that breaks the contract
  first_diff_pos INTEGER,         -- first token with any differing bit
  content_ref INTEGER, content_got INTEGER, -- digests of the final cache
  order_ref INTEGER, order_got INTEGER,
  score_ref INTEGER, score_got INTEGER,
  UNIQUE(run_id, key)) STRICT;
CREATE INDEX kase_key ON kase(key, run_id);
CREATE INDEX kase_bad ON kase(status, run_id) WHERE status <> 'PASS';

CREATE TABLE tok( -- one scored token
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  pos INTEGER NOT NULL,           -- index of the predicting token
  tok INTEGER NOT NULL,           -- the token it predicts
  nll_ref REAL, nll_got REAL, kl REAL,
  margin_ref REAL,                -- reference: largest logit - second largest
  max_ulp INTEGER,                -- largest distance of a logit
  flags INTEGER NOT NULL,         -- see tok_flag
  n_resident INTEGER,             -- cache entries after the step, layer 0, head 0
  PRIMARY KEY(case_id, pos)) STRICT, WITHOUT ROWID;

CREATE TABLE tok_hash( -- content digests of the cache
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  pos INTEGER NOT NULL,           -- last token of the step
  layer INTEGER NOT NULL,         -- -1 = all layers
  h_ref INTEGER NOT NULL, h_got INTEGER,
  PRIMARY KEY(case_id, pos, layer)) STRICT, WITHOUT ROWID;

CREATE TABLE event( -- decisions of the cache policy
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  seq INTEGER NOT NULL,           -- keeps the order in which they were taken
  side INTEGER NOT NULL CHECK(side IN (0, 1)), -- 0 ref, 1 got
  pos INTEGER NOT NULL,           -- token that caused the decision
  layer INTEGER NOT NULL,
  head INTEGER NOT NULL,          -- KV head; -1 = all heads share it
  kind INTEGER NOT NULL REFERENCES event_kind,
  slot INTEGER NOT NULL,
  og INTEGER NOT NULL,            -- original index of the token decided upon
  margin REAL,                    -- distance to the boundary; Inf where no score decided
  margin_bits INTEGER NOT NULL,   -- its fp32 pattern
  PRIMARY KEY(case_id, seq)) STRICT, WITHOUT ROWID;

CREATE TABLE retrieval( -- passkey
  case_id INTEGER PRIMARY KEY REFERENCES kase ON DELETE CASCADE,
  ctx_len INTEGER NOT NULL,       -- tokens
  depth_ppm INTEGER NOT NULL,     -- wanted place of the key, parts per million
  insert_pos INTEGER NOT NULL,    -- token index of the key
  digits INTEGER NOT NULL,
  expected TEXT NOT NULL, ans_ref TEXT, ans_got TEXT,
  ok_ref INTEGER NOT NULL, ok_got INTEGER,
  digits_ref INTEGER, digits_got INTEGER, -- equal digits at equal index
  nll_ref REAL, nll_got REAL,     -- of the expected digits, summed
  needle_resident_ref INTEGER, needle_resident_got INTEGER) STRICT; -- key tokens in the cache
CREATE INDEX retr_grid ON retrieval(ctx_len, depth_ppm);

-- ---- localisation ------------------------------------------------------------------------------

CREATE TABLE blob( -- snapshots and other bytes, in the file or beside it
  sha BLOB PRIMARY KEY,
  codec TEXT NOT NULL,
  raw_len INTEGER NOT NULL,
  data BLOB,
  path TEXT) STRICT, WITHOUT ROWID;

CREATE TABLE divergence( -- one row per distinct root cause of a case
  div_id INTEGER PRIMARY KEY,
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  pos INTEGER NOT NULL,
  layer INTEGER, op TEXT, head INTEGER, slot INTEGER, elem INTEGER,
  ref_bits INTEGER, got_bits INTEGER, -- fp32 patterns of the element
  ref_val REAL, got_val REAL,
  ulp INTEGER, err REAL, bound REAL,
  ratio REAL,                     -- err / bound
  klass TEXT NOT NULL REFERENCES klass,
  hypothesis TEXT,
  replays INTEGER,                -- times repeated
  deterministic INTEGER,          -- 1: every repeat gave the same bits
  snapshot_sha BLOB REFERENCES blob(sha),
  repro TEXT NOT NULL) STRICT;
CREATE INDEX div_case ON divergence(case_id);
CREATE INDEX div_where ON divergence(op, layer, klass);

CREATE TABLE evict_diff( -- evictions on which the sides disagree
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  pos INTEGER NOT NULL, layer INTEGER NOT NULL, head INTEGER NOT NULL,
  ref_victim INTEGER, got_victim INTEGER, -- original indices
  ref_score REAL, got_score REAL,
  ref_score_bits INTEGER, got_score_bits INTEGER,
  tie INTEGER NOT NULL,           -- 1: inside the error bound of the scores
  PRIMARY KEY(case_id, pos, layer, head)) STRICT, WITHOUT ROWID;

-- ---- single operations and speed ---------------------------------------------------------------

CREATE TABLE op_check(
  op_check_id INTEGER PRIMARY KEY,
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  kernel_id INTEGER NOT NULL REFERENCES kernel,
  op TEXT NOT NULL, shape TEXT NOT NULL, dtype TEXT NOT NULL,
  dist TEXT NOT NULL,             -- how the inputs are distributed
  seed INTEGER NOT NULL, n_elem INTEGER NOT NULL,
  max_ulp INTEGER, p999_ulp INTEGER, max_abs REAL, max_ratio REAL,
  nmse REAL,                      -- sum (got - ref)^2 / sum ref^2
  n_over INTEGER,                 -- elements over the bound
  n_nonfinite INTEGER,
  arg_worst INTEGER,              -- index of the worst element
  ref_bits INTEGER, got_bits INTEGER, ref_val REAL, got_val REAL, -- its values
  rerun_same INTEGER,             -- 1: a repeat gave the same bits
  guard_ok INTEGER,               -- 1: nothing written outside the buffers
  inputs_intact INTEGER,          -- 1: the inputs are unchanged
  out_entropy REAL) STRICT;       -- bits per element: small = degenerate output
CREATE INDEX op_by_kernel ON op_check(kernel_id, op, dtype);
CREATE INDEX op_by_case ON op_check(case_id);

CREATE TABLE perf(
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  metric TEXT NOT NULL, rep INTEGER NOT NULL,
  ns INTEGER NOT NULL,
  bytes INTEGER,                  -- moved
  PRIMARY KEY(case_id, metric, rep)) STRICT, WITHOUT ROWID;

-- ---- verdicts over time ------------------------------------------------------------------------

CREATE TABLE baseline(
  baseline_id INTEGER PRIMARY KEY,
  channel TEXT NOT NULL,          -- nightly, release
  run_id INTEGER NOT NULL REFERENCES run,
  created_at INTEGER NOT NULL,
  author TEXT NOT NULL, reason TEXT NOT NULL,
  supersedes INTEGER REFERENCES baseline,
  active INTEGER NOT NULL DEFAULT 1) STRICT;
CREATE UNIQUE INDEX baseline_active ON baseline(channel) WHERE active = 1;
CREATE INDEX baseline_by_run ON baseline(run_id);

CREATE TABLE gate(
  gate_id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
  baseline_id INTEGER REFERENCES baseline,
  metric TEXT NOT NULL,
  slice TEXT NOT NULL,            -- which cases
  n_unit INTEGER NOT NULL,        -- documents
  est REAL, lo REAL, hi REAL,     -- estimate and its interval
  margin REAL,
  p_raw REAL, p_adj REAL,         -- before and after the correction for many comparisons
  method TEXT NOT NULL,
  verdict TEXT NOT NULL REFERENCES gate_verdict,
  UNIQUE(run_id, metric, slice)) STRICT;

CREATE TABLE waiver( -- failures that are expected for a while
  waiver_id INTEGER PRIMARY KEY,
  key_glob TEXT NOT NULL,         -- of kase.key
  klass TEXT REFERENCES klass,    -- NULL: any
  expires_at INTEGER NOT NULL,
  issue TEXT NOT NULL,
  author TEXT NOT NULL) STRICT;

CREATE TABLE mutant( -- planted bugs
  mutant_id INTEGER PRIMARY KEY,
  code TEXT NOT NULL UNIQUE,
  family TEXT NOT NULL, op TEXT NOT NULL,
  patch_sha BLOB NOT NULL,
  expect_klass TEXT NOT NULL REFERENCES klass,
  expect_tier TEXT NOT NULL,
  equivalent INTEGER NOT NULL DEFAULT 0) STRICT; -- 1: cannot be told from the original

CREATE TABLE mutant_result(
  run_id INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
  mutant_id INTEGER NOT NULL REFERENCES mutant,
  tier TEXT NOT NULL,
  detected INTEGER NOT NULL,
  localised_op TEXT,
  klass TEXT REFERENCES klass,
  first_pos INTEGER,
  secs REAL,
  killed_by TEXT,
  PRIMARY KEY(run_id, mutant_id, tier)) STRICT, WITHOUT ROWID;

-- ---- views -------------------------------------------------------------------------------------
-- Perplexities of views and queries are for reading; verdicts are computed from the sums.

CREATE VIEW v_case AS
SELECT k.*, r.kind, r.started_at, r.label, b.git_commit,
       p.name AS policy, m.name AS model, s.name AS kset, c.name AS corpus, d.title AS document,
       exp(k.sum_nll_ref / nullif(k.n_tok, 0)) AS ppl_ref,
       exp(k.sum_nll_got / nullif(k.n_tok, 0)) AS ppl_got,
       (k.sum_nll_got - k.sum_nll_ref) / nullif(k.n_tok, 0) AS dnll,
       k.sum_kl / nullif(k.n_tok, 0) AS mean_kl,
       1.0 * k.n_top1_same / nullif(k.n_tok, 0) AS top1
  FROM kase k
  JOIN run r USING(run_id)
  JOIN build b USING(build_id)
  LEFT JOIN policy p USING(policy_id)
  LEFT JOIN model m USING(model_id)
  LEFT JOIN kernel_set s USING(kernel_set_id)
  LEFT JOIN document d USING(doc_id)
  LEFT JOIN corpus c USING(corpus_id);

CREATE VIEW v_run AS
SELECT r.run_id, r.kind, r.status, datetime(r.started_at, 'unixepoch') AS started, r.label,
       b.git_commit, b.git_dirty, e.hostname, e.gpu_name,
       count(k.case_id) AS cases,
       count(*) FILTER (WHERE k.status = 'PASS') AS passes,
       count(*) FILTER (WHERE k.status = 'FAIL') AS fails,
       sum(k.n_tok) AS toks,
       exp(sum(k.sum_nll_ref) / nullif(sum(k.n_tok), 0)) AS ppl_ref,
       exp(sum(k.sum_nll_got) /
           nullif(sum(k.n_tok) FILTER (WHERE k.sum_nll_got IS NOT NULL), 0)) AS ppl_got,
       sum(k.sum_kl) / nullif(sum(k.n_tok) FILTER (WHERE k.sum_kl IS NOT NULL), 0) AS mean_kl,
       max(k.max_kl) AS max_kl,
       1.0 * sum(k.n_top1_same) /
           nullif(sum(k.n_tok) FILTER (WHERE k.n_top1_same IS NOT NULL), 0) AS top1
  FROM run r
  JOIN build b USING(build_id)
  JOIN env e USING(env_id)
  LEFT JOIN kase k USING(run_id)
 GROUP BY r.run_id;

CREATE VIEW v_first_div AS
SELECT * FROM (
  SELECT d.*, row_number() OVER (PARTITION BY case_id ORDER BY pos, layer, div_id) AS rn
    FROM divergence d)
 WHERE rn = 1;

CREATE VIEW v_pair AS -- the same case in two runs
SELECT a.key, a.run_id AS base_run, c.run_id AS cand_run, a.n_tok,
       a.sum_nll_got / nullif(a.n_tok, 0) AS base_nll,
       c.sum_nll_got / nullif(c.n_tok, 0) AS cand_nll,
       c.sum_nll_got / nullif(c.n_tok, 0) - a.sum_nll_got / nullif(a.n_tok, 0) AS delta,
       a.status AS base_status, c.status AS cand_status
  FROM kase a
  JOIN kase c ON c.key = a.key AND c.run_id <> a.run_id;
