-- 0004: checks of single operations (`kvdiff ops`): one row for every named check of a case.

CREATE TABLE op_verdict(
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  op TEXT NOT NULL,
  check_name TEXT NOT NULL,       -- docs/ops.md
  status TEXT NOT NULL REFERENCES case_status,
  n INTEGER NOT NULL,             -- times applied
  n_bad INTEGER NOT NULL,         -- times failed
  detail TEXT,                    -- the first failure, or why it was skipped
  repro TEXT,                     -- command line
  PRIMARY KEY(case_id, op, check_name)) STRICT, WITHOUT ROWID;
