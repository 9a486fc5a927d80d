-- how much of its error bound each operation uses, tightest first
-- alias: q12
-- parameters: run (the last with operations)
SELECT n.name, n.variant, o.op, o.dtype, count(*) AS n, max(o.max_ulp) AS max_ulp,
       max(o.max_ratio) AS worst_ratio, sum(o.n_over) AS n_over,
       sum(o.rerun_same = 0) AS nondeterministic, sum(o.guard_ok = 0) AS out_of_bounds
  FROM op_check o
  JOIN kernel n USING(kernel_id)
  JOIN kase k USING(case_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM op_check JOIN kase USING(case_id)))
 GROUP BY n.name, n.variant, o.op, o.dtype
 ORDER BY worst_ratio DESC, n.name, n.variant, o.op, o.dtype;
