-- the last runs at a glance, newest first
-- alias: q1
-- parameters: kind (any), n (10)
SELECT *
  FROM v_run
 WHERE run_id IN (SELECT run_id
                    FROM run
                   WHERE :kind IS NULL OR kind = :kind
                   ORDER BY run_id DESC
                   LIMIT coalesce(:n, 10))
 ORDER BY run_id DESC;
