-- checks of single operations, failed ones first
-- parameters: run (the last with operations)
SELECT k.device AS kernel, v.op, v.check_name, v.status, v.n, v.n_bad, v.detail, v.repro
  FROM op_verdict v
  JOIN kase k USING(case_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM op_verdict JOIN kase USING(case_id)))
 ORDER BY v.status IN ('PASS', 'SKIP'), v.status, k.device, v.op, v.check_name;
