-- retrieval by length and depth: accuracy of both sides, keys lost and gained
-- alias: q10
-- parameters: run (the last with retrieval)
SELECT p.name AS policy, k.device, r.ctx_len, r.depth_ppm / 10000.0 AS depth_pct, count(*) AS n,
       avg(r.ok_ref) AS acc_ref, avg(r.ok_got) AS acc_got,
       1.0 * sum(r.digits_ref) / sum(r.digits) AS digits_ref,
       1.0 * sum(r.digits_got) / sum(r.digits) AS digits_got,
       sum(r.ok_ref AND NOT r.ok_got) AS lost, sum(r.ok_got AND NOT r.ok_ref) AS gained,
       sum(r.needle_resident_ref <> r.needle_resident_got) AS policy_bugs
  FROM retrieval r
  JOIN kase k USING(case_id)
  LEFT JOIN policy p USING(policy_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM retrieval JOIN kase USING(case_id)))
 GROUP BY p.name, k.device, r.ctx_len, r.depth_ppm
 ORDER BY p.name, k.device, r.ctx_len, r.depth_ppm;
