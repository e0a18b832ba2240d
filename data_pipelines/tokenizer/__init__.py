"""texts -> bpe: a tokenizer, as a Hugging Face folder -> encoder: text <-> token ids; roundtrip: what gets lost."""
