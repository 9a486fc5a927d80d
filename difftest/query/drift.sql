-- divergence by position, in buckets that double, from the token rows that were kept
-- alias: q9
-- parameters: run (the last), policy (all), device (all)
SELECT CAST(log2(t.pos + 1) AS INTEGER) AS bucket, min(t.pos) AS first, max(t.pos) AS last,
       count(*) AS rows, avg(t.kl) AS mean_kl, avg(t.nll_got - t.nll_ref) AS mean_dnll,
       avg(t.flags & 1) AS flips, max(t.max_ulp) AS max_ulp
  FROM kase k
  JOIN tok t USING(case_id)
  LEFT JOIN policy p USING(policy_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM run))
   AND (:policy IS NULL OR p.name = :policy)
   AND (:device IS NULL OR k.device = :device)
 GROUP BY bucket
 ORDER BY bucket;
