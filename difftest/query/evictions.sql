-- evictions on which the sides disagree and that no tie explains
-- alias: q13
-- parameters: run (the last), n (50)
SELECT k.key, e.pos, e.layer, e.head, e.ref_victim, e.got_victim, e.ref_score, e.got_score
  FROM evict_diff e
  JOIN kase k USING(case_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM run)) AND e.tie = 0
 ORDER BY e.pos, k.key, e.layer, e.head
 LIMIT coalesce(:n, 50);
