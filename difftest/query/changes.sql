-- cases that broke or were fixed since the active baseline
-- alias: q7
-- parameters: run (the last), channel (nightly)
SELECT CASE WHEN v.cand_status = 'PASS' THEN 'fixed' ELSE 'broken' END AS what, v.key,
       v.base_status, v.cand_status
  FROM v_pair v
  JOIN baseline b ON b.run_id = v.base_run AND b.active = 1
 WHERE v.cand_run = coalesce(:run, (SELECT max(run_id) FROM run))
   AND b.channel = coalesce(:channel, 'nightly')
   AND (v.base_status = 'PASS') <> (v.cand_status = 'PASS')
 ORDER BY what, v.key;
