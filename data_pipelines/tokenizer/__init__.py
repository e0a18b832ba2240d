"""texts -> bpe: a trained tokenizer, a Hugging Face folder -> file: opened, compared -> encoder: text <-> ids.

roundtrip: what a tokenizer loses of a text."""
