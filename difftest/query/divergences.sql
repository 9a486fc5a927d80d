-- first localised divergence of each case: where, which bits, what kind of bug
-- alias: q3
-- parameters: run (the last)
SELECT k.key, d.pos, d.layer, d.op, d.head, d.slot, d.elem, printf('0x%08x', d.ref_bits) AS ref,
       printf('0x%08x', d.got_bits) AS got, d.ulp, d.ratio, d.klass, d.hypothesis
  FROM v_first_div d
  JOIN kase k USING(case_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM run))
 ORDER BY d.pos, k.key;
