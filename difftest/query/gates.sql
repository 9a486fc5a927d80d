-- the statistical verdicts of a run, failures first
-- alias: q16
-- parameters: run (the last with verdicts)
SELECT metric, slice, n_unit, est, lo, hi, margin, p_adj, verdict, method
  FROM gate
 WHERE run_id = coalesce(:run, (SELECT max(run_id) FROM gate))
 ORDER BY verdict <> 'fail', metric, slice;
