-- perplexity of both sides per policy and device, KL and top-1 agreement
-- alias: q5
-- parameters: run (the last)
SELECT p.name AS policy, k.device, k.mode, count(*) AS docs, sum(k.n_tok) AS tokens,
       exp(sum(k.sum_nll_ref) / sum(k.n_tok)) AS ppl_ref,
       exp(sum(k.sum_nll_got) / sum(k.n_tok) FILTER (WHERE k.sum_nll_got IS NOT NULL)) AS ppl_got,
       exp(sum(k.sum_nll_ref) FILTER (WHERE k.n_words > 0) / sum(k.n_words)) AS word_ppl_ref,
       exp(sum(k.sum_nll_got) FILTER (WHERE k.n_words > 0) /
           sum(k.n_words) FILTER (WHERE k.sum_nll_got IS NOT NULL)) AS word_ppl_got,
       sum(k.sum_nll_ref) FILTER (WHERE k.n_text_bytes > 0) / ln(2) / sum(k.n_text_bytes) AS bpb_ref,
       sum(k.sum_nll_got) FILTER (WHERE k.n_text_bytes > 0) / ln(2) /
           sum(k.n_text_bytes) FILTER (WHERE k.sum_nll_got IS NOT NULL) AS bpb_got,
       sum(k.sum_kl) / sum(k.n_tok) FILTER (WHERE k.sum_kl IS NOT NULL) AS mean_kl,
       max(k.max_kl) AS max_kl,
       1.0 * sum(k.n_top1_same) / sum(k.n_tok) FILTER (WHERE k.n_top1_same IS NOT NULL) AS top1
  FROM kase k
  LEFT JOIN policy p USING(policy_id)
 WHERE k.run_id = coalesce(:run, (SELECT max(run_id) FROM run)) AND k.n_tok > 0
 GROUP BY p.name, k.device, k.mode
 ORDER BY p.name, k.device, k.mode;
