-- every case of a run that is not PASS, with the command that repeats it
-- alias: q2
-- parameters: run (the last)
SELECT key, status, reason, max_ulp, max_ratio, first_bad_pos, first_diff_pos, repro
  FROM kase
 WHERE run_id = coalesce(:run, (SELECT max(run_id) FROM run)) AND status <> 'PASS'
 ORDER BY status, key;
