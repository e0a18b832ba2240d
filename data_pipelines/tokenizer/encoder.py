"""Text -> token ids and back, by the tokenizer of a Hugging Face folder: one that was trained here, or any other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from data_pipelines.base.rank import is_rank_0
from data_pipelines.tokenizer.bpe import END
from data_pipelines.tokenizer.file import NAME, open_tokenizer


class TextEncoder:
    """Turns documents into ids that end with the end-of-text token.

    Every document becomes all of its tokens and no others, each time the same: what a tokenizer.json carries for the
    use of a model (truncation, padding) or for its training (dropout) is switched off, which a line on stderr says
    unless `quiet`.

    Raises ValueError where a folder has no tokenizer or no end-of-text token, or where its files cannot be read.
    """

    hash: str
    """sha256 of tokenizer.json: what shards know their tokenizer by."""

    def __init__(self, folder: str | Path, *, quiet: bool = False):
        self._tokenizer, switched_off, self.hash = open_tokenizer(Path(folder))
        if switched_off and not quiet and is_rank_0():
            _say_once(
                f"{Path(folder) / NAME}: {', '.join(switched_off)} switched off: a document is all of its tokens, and "
                "no others"
            )
        self._tokenizer.encode_special_tokens = True  # "<|end_of_text|>" written in a document is text, not an end
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        self.eos_id = self._eos_id(Path(folder))

    def encode(self, texts: list[str]) -> Iterator[list[int]]:
        """The ids of each text, in order, the end-of-text token last; nothing else is added to them."""
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield [*encoding.ids, self.eos_id]

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids; special tokens are written out."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)

    def _eos_id(self, folder: Path) -> int:
        config = folder / "tokenizer_config.json"
        try:
            token = json.loads(config.read_text()).get("eos_token") if config.is_file() else END
        except (ValueError, AttributeError) as err:
            raise ValueError(f"{config} is not a JSON object ({err}); restore it from where the tokenizer is") from err
        token = token["content"] if isinstance(token, dict) else token
        token_id = self._tokenizer.token_to_id(token) if token else None
        if token_id is None:
            raise ValueError(f"{folder}: no end-of-text token; name one as eos_token in tokenizer_config.json")
        return token_id


@cache  # a command opens its tokenizer several times
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
