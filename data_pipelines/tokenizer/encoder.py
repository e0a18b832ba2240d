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
from data_pipelines.tokenizer.roundtrip import losses


class TextEncoder:
    """Turns documents into ids that end with the end-of-text token.

    Every document becomes all of its tokens and no others, each time the same: what a tokenizer.json carries for the
    use of a model (truncation, padding) or for its training (dropout) is switched off, which a line on stderr says
    unless `quiet`, and which says too what the tokenizer loses of a text.

    Raises ValueError where a folder has no tokenizer or no end-of-text token, where its files cannot be read, and for a
    tokenizer that has no tokens for some texts.
    """

    hash: str
    """sha256 of tokenizer.json: what shards know their tokenizer by."""

    def __init__(self, folder: str | Path, *, quiet: bool = False):
        path = Path(folder) / NAME
        self._tokenizer, switched_off, self.hash = open_tokenizer(Path(folder))
        if switched_off and not quiet and is_rank_0():
            _say_once(f"{path}: {', '.join(switched_off)} switched off: a document is all of its tokens, and no others")
        if not (vocabulary := self._tokenizer.get_vocab()):
            raise ValueError(f"{path} has no token in it; restore it from where the tokenizer is")
        self.vocab_size = 1 + max(vocabulary.values())
        self.eos_id = self._eos_id(Path(folder))
        try:
            lost = list(losses(self._tokenizer, self.eos_id))
        except Exception as err:  # such as words that are not in the vocabulary, where it has no token for unknown ones
            raise ValueError(f"{path} cannot tokenise every text ({err}); take a tokenizer that can") from err
        if lost and not quiet and is_rank_0():
            _say_once(f"{path}: {'; '.join(lost)}")

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
            token = json.loads(config.read_bytes()).get("eos_token") if config.is_file() else END
        except (ValueError, AttributeError, RecursionError) as err:
            raise ValueError(f"{config} is not a JSON object ({err}); restore it from where the tokenizer is") from err
        token = token.get("content") if isinstance(token, dict) else token
        token_id = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        if token_id is None:
            got = "" if token is None else f" (got {token!r})"
            raise ValueError(f"{folder}: no end-of-text token; name one as eos_token in tokenizer_config.json{got}")
        return token_id


@cache  # a command opens its tokenizer several times
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
