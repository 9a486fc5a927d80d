-- every case of a run: perplexities, KL, first differing token, status
-- parameters: run (the last)
SELECT coalesce(corpus || '/' || document, key) AS document, model, policy, device, mode, q,
       n_tok AS tokens, ppl_ref, ppl_got, mean_kl, max_kl, top1, max_ulp, first_diff_pos, status, reason
  FROM v_case
 WHERE run_id = coalesce(:run, (SELECT max(run_id) FROM run))
 ORDER BY case_id;
