-- nats per token of each case against the active baseline, largest change first
-- alias: q6
-- parameters: run (the last), channel (nightly)
SELECT v.key, v.n_tok AS tokens, v.base_nll, v.cand_nll, v.delta
  FROM v_pair v
  JOIN baseline b ON b.run_id = v.base_run AND b.active = 1
 WHERE v.cand_run = coalesce(:run, (SELECT max(run_id) FROM run))
   AND b.channel = coalesce(:channel, 'nightly')
 ORDER BY abs(v.delta) DESC, v.key;
