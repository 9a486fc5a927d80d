-- 0002: what the policies and storages of all kinds add: bytes of the cache, legal ties, visited states.
-- docs/results.md explains it for users. Cases from before have NULL in the new columns.

ALTER TABLE kase ADD COLUMN n_ties INTEGER;          -- decisions that differ by a legal tie
ALTER TABLE kase ADD COLUMN bytes_ref INTEGER;       -- of the records in the cache at the end, all layers and heads
ALTER TABLE kase ADD COLUMN bytes_got INTEGER;
ALTER TABLE kase ADD COLUMN peak_bytes_ref INTEGER;  -- most of all comparisons of cache state
ALTER TABLE kase ADD COLUMN peak_bytes_got INTEGER;

INSERT INTO tok_flag VALUES
  (64, 'tie', 'decisions of the step of this token differ by a legal tie');

CREATE TABLE coverage( -- states of a cache that a case went through
  case_id INTEGER NOT NULL REFERENCES kase ON DELETE CASCADE,
  cell TEXT NOT NULL,             -- kvdiff coverage --list
  n INTEGER NOT NULL,             -- times
  PRIMARY KEY(case_id, cell)) STRICT, WITHOUT ROWID;
