-- decisions of the cache policy that only one side took
-- parameters: run (the last), n (50)
SELECT k.key, e.pos, e.layer, e.head, CASE max(e.side) WHEN 0 THEN 'ref' ELSE 'got' END AS side,
       d.name AS kind, e.slot, e.og, e.margin, printf('0x%08x', e.margin_bits) AS margin_bits
  FROM event e
  JOIN kase k USING(case_id)
  JOIN event_kind d USING(kind)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM run)) AND k.kernel_set_id IS NOT NULL
 GROUP BY e.case_id, e.pos, e.layer, e.head, e.kind, e.slot, e.og, e.margin_bits
HAVING min(e.side) = max(e.side)
 ORDER BY e.pos, k.key, e.layer, e.head, side DESC, min(e.seq)
 LIMIT coalesce(:n, 50);
