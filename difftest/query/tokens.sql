-- tokens around one place of one case: likelihoods, KL, margin, ulp, what differs
-- alias: q8
-- parameters: run (the last), case (first that differs), pos (its first that does), n (8)
WITH place AS (
  SELECT case_id, coalesce(:pos, first_bad_pos, first_diff_pos, 0) AS pos
    FROM kase
   WHERE CASE WHEN :case IS NULL THEN run_id = coalesce(:run, (SELECT max(run_id) FROM run))
              ELSE case_id = :case END
   ORDER BY status = 'PASS', coalesce(first_bad_pos, first_diff_pos) IS NULL,
            coalesce(first_bad_pos, first_diff_pos), case_id
   LIMIT 1)
SELECT t.case_id, t.pos, t.tok, t.nll_ref, t.nll_got, t.kl, t.margin_ref, t.max_ulp, t.n_resident,
       (SELECT group_concat(name, ' ')
          FROM (SELECT name FROM tok_flag WHERE t.flags & bit ORDER BY bit)) AS differs
  FROM place p
  JOIN tok t ON t.case_id = p.case_id
            AND t.pos BETWEEN p.pos - coalesce(:n, 8) AND p.pos + coalesce(:n, 8)
 ORDER BY t.pos;
