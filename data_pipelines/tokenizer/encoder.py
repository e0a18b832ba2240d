"""Text -> token ids and back, by the tokenizer of a Hugging Face folder: one that was trained here, or any other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from data_pipelines.base.rank import is_rank_0
from data_pipelines.tokenizer.bpe import END
from data_pipelines.tokenizer.file import NAME, open_tokenizer
from data_pipelines.tokenizer.roundtrip import losses

if TYPE_CHECKING:  # a start that tokenises nothing does not load it
    from data_pipelines.tokenizer.fast import FastEncoder

Backend: TypeAlias = Literal["tokenizers", "tiktoken"]


class TextEncoder:
    """Turns documents into ids that end with the end-of-text token.

    Every document becomes all of its tokens and no others, each time the same: what a tokenizer.json carries for the
    use of a model (truncation, padding) or for its training (dropout) is switched off, which a line on stderr says
    unless `quiet`, and which says too what the tokenizer loses of a text.

    threads: of tiktoken; those of `tokenizers` are an environment variable's. Raises ValueError where a folder has no
    tokenizer or no end-of-text token, where its files cannot be read, and for a tokenizer that has no tokens for some
    texts.
    """

    hash: str
    """sha256 of tokenizer.json: what shards know their tokenizer by."""

    def __init__(self, folder: str | Path, *, quiet: bool = False, threads: int = 1):
        path = Path(folder) / NAME
        self._fast, self._threads = cast("FastEncoder | None", None), threads
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

    @property
    def backend(self) -> Backend:
        """What turns text into ids. Whichever it is, they are the same."""
        return "tiktoken" if self._fast else "tokenizers"

    def go_fast(self, texts: Iterable[str]) -> str | None:
        """From now on by tiktoken, if it gives the same ids as `tokenizers` on `texts`. Returns why not."""
        from data_pipelines.tokenizer.fast import FastEncoder, NotFastError, difference

        try:
            fast = FastEncoder(self._tokenizer)
        except NotFastError as error:
            return str(error)
        if place := difference(self._tokenizer, fast, texts):
            return f"it gives other ids in {place}"
        self._fast = fast
        return None

    def encode(self, texts: Sequence[str]) -> Iterator[Sequence[int] | np.ndarray]:
        """The ids of each text, in order, the end-of-text token last; nothing else is added to them."""
        if self._fast:
            yield from self._fast.encode_each(texts, self.eos_id, self._threads)
            return
        for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
            yield [*encoding.ids, self.eos_id]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of the ids; special tokens are written out."""
        return self._tokenizer.decode([int(token_id) for token_id in token_ids], skip_special_tokens=False)

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
