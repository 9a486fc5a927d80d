-- planted bugs found and put at the right place, by family and tier
-- alias: q15
-- parameters: run (the last with planted bugs)
SELECT m.family, x.tier, count(*) AS n, sum(x.detected) AS found,
       100.0 * sum(x.detected) / count(*) AS found_pct,
       100.0 * sum(x.detected AND x.localised_op IS m.op) / nullif(sum(x.detected), 0)
         AS localised_pct,
       100.0 * sum(x.detected AND x.localised_head IS m.head AND m.head IS NOT NULL)
         / nullif(sum(x.detected AND m.head IS NOT NULL), 0) AS head_pct,
       100.0 * sum(x.detected AND x.klass IS m.expect_klass) / nullif(sum(x.detected), 0)
         AS klass_pct,
       avg(x.secs) AS mean_secs
  FROM mutant_result x
  JOIN mutant m USING(mutant_id)
 WHERE x.run_id = coalesce(:run, (SELECT max(run_id) FROM mutant_result)) AND NOT m.equivalent
 GROUP BY m.family, x.tier
 ORDER BY m.family, x.tier;
