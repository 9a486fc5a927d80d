-- which root causes (operation, layer, kind of bug) dominate a run
-- alias: q4
-- parameters: run (the last), n (20)
SELECT d.op, d.layer, d.klass, count(*) AS n, count(DISTINCT d.case_id) AS cases,
       min(d.pos) AS first_pos
  FROM divergence d
  JOIN kase k USING(case_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM run))
 GROUP BY d.op, d.layer, d.klass
 ORDER BY n DESC, d.op, d.layer, d.klass
 LIMIT coalesce(:n, 20);
