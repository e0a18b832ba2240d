"""texts -> bpe: a trained tokenizer, as a Hugging Face folder -> encoder: text <-> token ids."""
