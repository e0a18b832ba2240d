"""A byte-level BPE: trained, saved as a Hugging Face folder, loaded again.

Text is cut before merging as Trinity's tokenizer does (arXiv 2602.17004, llama.cpp `afmoe`): digits into groups of
three from the right, so that 1234567 is 1|234|567; runs of scripts that have no spaces; then words, punctuation and
white space. Every text has a tokenisation and comes back from it byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from data_pipelines.tokenizer.bpe import END


class TextEncoder:
    """Turns documents into ids that end with the end-of-text token. Raises ValueError where a folder has none."""

    def __init__(self, folder: str | Path):
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{path} does not exist; expected the folder of a Hugging Face tokenizer")
        self.hash = hashlib.sha256(path.read_bytes()).hexdigest()
        """What shards know their tokenizer by."""
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True  # "<|end_of_text|>" written in a document is text, not an end
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        self.eos_id = self._eos_id(Path(folder))

    def encode(self, texts: list[str]) -> Iterator[list[int]]:
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield [*encoding.ids, self.eos_id]

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)

    def _eos_id(self, folder: Path) -> int:
        config = folder / "tokenizer_config.json"
        token = json.loads(config.read_text()).get("eos_token") if config.is_file() else END
        token = token["content"] if isinstance(token, dict) else token
        token_id = self._tokenizer.token_to_id(token) if token else None
        if token_id is None:
            raise ValueError(f"{folder}: no end-of-text token; name one as eos_token in tokenizer_config.json")
        return token_id
