-- states of the caches that cases went through, and how often; `kvdiff coverage` knows those that are missing
-- parameters: run (all), device (all)
SELECT c.cell, sum(c.n) AS times, count(*) AS cases, count(DISTINCT k.policy_id) AS policies,
       sum(k.status = 'PASS') AS passed
  FROM coverage c
  JOIN kase k USING(case_id)
 WHERE k.run_id = coalesce(:run, k.run_id) AND k.device = coalesce(:device, k.device)
 GROUP BY c.cell
 ORDER BY c.cell;
