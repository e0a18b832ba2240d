"""Text -> token ids and back, by the tokenizer of a Hugging Face folder: one that was trained here, or any other."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from data_pipelines.base.rank import is_rank_0
from data_pipelines.tokenizer.bpe import END


class TextEncoder:
    """Turns documents into ids that end with the end-of-text token.

    Every document becomes all of its tokens and no others, each time the same: what a tokenizer.json carries for the
    use of a model (truncation, padding) or for its training (dropout) is switched off, which a line on stderr says
    unless `quiet`.

    Raises ValueError where a folder has no tokenizer or no end-of-text token, or where its files cannot be read.
    """

    def __init__(self, folder: str | Path, *, quiet: bool = False):
        path, content = Path(folder) / "tokenizer.json", _content(folder)
        self.hash = hashlib.sha256(content).hexdigest()
        """What shards know their tokenizer by."""
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as err:  # what the library raises has no class of its own
            raise ValueError(f"{path} is no tokenizer that this version of `tokenizers` reads ({err})") from err
        if (settings := _switch_off(self._tokenizer)) and not quiet and is_rank_0():
            _say_once(f"{path}: {', '.join(settings)} switched off: a document is all of its tokens, and no others")
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


def tokenizer_hash(folder: str | Path) -> str:
    """What shards know the tokenizer of `folder` by. Raises ValueError where a folder has none."""
    return hashlib.sha256(_content(folder)).hexdigest()


def _content(folder: str | Path) -> bytes:
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the folder of a Hugging Face tokenizer")
    return path.read_bytes()


def _switch_off(tokenizer: Tokenizer) -> list[str]:
    """The names of the settings that would have lost, added or varied tokens."""
    settings = []
    if tokenizer.truncation is not None:
        settings.append(f"truncation to {tokenizer.truncation['max_length']:,} tokens")
        tokenizer.no_truncation()
    if tokenizer.padding is not None:
        settings.append("padding")
        tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        settings.append(f"dropout={tokenizer.model.dropout:g}")
        tokenizer.model.dropout = None
    return settings


@cache  # a command opens its tokenizer several times
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
