-- a case, or those whose keys match a pattern, over commits, newest first
-- alias: q11
-- parameters: key (all; * and ? match), n (60)
SELECT k.run_id, datetime(r.started_at, 'unixepoch') AS started, substr(b.git_commit, 1, 12) AS git,
       b.git_dirty AS dirty, k.key, exp(k.sum_nll_got / nullif(k.n_tok, 0)) AS ppl_got,
       exp(k.sum_nll_ref / nullif(k.n_tok, 0)) AS ppl_ref, k.max_ulp, k.max_ratio, k.status
  FROM kase k
  JOIN run r USING(run_id)
  JOIN build b USING(build_id)
 WHERE :key IS NULL OR k.key = :key OR k.key GLOB :key
 ORDER BY k.run_id DESC, k.key
 LIMIT coalesce(:n, 60);
