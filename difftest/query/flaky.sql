-- same case, program, machine and seed, but another cache or likelihood
-- alias: q14
WITH c AS (
  SELECT k.*, r.build_id, r.env_id, r.seed,
         printf('%x %x %x %x %x %x', k.content_ref, k.order_ref, k.score_ref, k.content_got,
                k.order_got, k.score_got) AS cache
    FROM kase k
    JOIN run r USING(run_id)
   WHERE k.n_tok > 0)
SELECT key, count(DISTINCT cache) AS caches, count(DISTINCT sum_nll_ref) AS nll_ref,
       count(DISTINCT sum_nll_got) AS nll_got, count(*) AS runs,
       group_concat(DISTINCT status) AS statuses
  FROM c
 GROUP BY key, model_id, kernel_set_id, doc_id, build_id, env_id, seed
HAVING caches > 1 OR nll_ref > 1 OR nll_got > 1
 ORDER BY caches DESC, key;
