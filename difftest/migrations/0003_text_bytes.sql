-- 0003: bytes of the scored text, for bits per byte. Cases from before have NULL.

ALTER TABLE kase ADD COLUMN n_text_bytes INTEGER;    -- of the tokens that are predicted (docs/tokenizer.md); NULL unknown
