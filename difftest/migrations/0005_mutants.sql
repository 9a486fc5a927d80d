-- 0005: planted bugs: where they are, what became of them, how other testers judge the same logits (docs/mutants.md).

ALTER TABLE mutant ADD COLUMN side TEXT;             -- emu or ref: the library that carries it
ALTER TABLE mutant ADD COLUMN head INTEGER;          -- the only query head that is wrong; NULL: no such one
ALTER TABLE mutant ADD COLUMN activation TEXT;       -- what activates it
ALTER TABLE mutant ADD COLUMN about TEXT;            -- what it is

ALTER TABLE mutant_result ADD COLUMN outcome TEXT;   -- found, survived, unreached
ALTER TABLE mutant_result ADD COLUMN localised_head INTEGER;
ALTER TABLE mutant_result ADD COLUMN cases INTEGER;  -- of the suite that were run
ALTER TABLE mutant_result ADD COLUMN case_key TEXT;  -- the case that raised the alarm
ALTER TABLE mutant_result ADD COLUMN reason TEXT;    -- its words
ALTER TABLE mutant_result ADD COLUMN repro TEXT;     -- the command that shows it again
ALTER TABLE mutant_result ADD COLUMN judge_nmse INTEGER;       -- other judges: 1 alarm, 0 none, NULL not asked
ALTER TABLE mutant_result ADD COLUMN judge_allclose INTEGER;
ALTER TABLE mutant_result ADD COLUMN judge_flashinfer INTEGER;
ALTER TABLE mutant_result ADD COLUMN judge_perplexity INTEGER;
