"""A byte-level BPE: trained, saved as a Hugging Face folder, loaded again.

Text is cut before merging as Trinity's tokenizer does (arXiv 2602.17004, llama.cpp `afmoe`): digits into groups of
three from the right, so that 1234567 is 1|234|567; runs of scripts that have no spaces; then words, punctuation and
white space. Every text has a tokenisation and comes back from it byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN, END, PAD, IM_END = SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|im_end|>")

# A run of digits is cut at 510 first: the right-to-left grouping looks ahead to the end of the run, which would take
# quadratic time on a page of digits.
_DIGIT_RUN = r"\p{N}{1,510}"
_DIGIT_GROUP = r"\p{N}{1,3}(?=(?:\p{N}{3})*$)"
# Blocks, not scripts: exactly the ranges that llama.cpp has for `afmoe`, so that a served model sees the pieces of its
# training. They differ from the scripts in Thai (only from U+0E40 on) and in signs such as the long vowel U+30FC.
_NO_SPACES = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"  # Han, kana
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"  # Thai, Lao, Khmer, Myanmar
    "\uac00-\ud7af\u1100-\u11ff]+"  # Hangul
)
_WORD = (  # the pattern of DeepSeek-V3
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with at most `vocab_size` ids, special tokens first. The same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(rule), "isolated") for rule in (_DIGIT_RUN, _DIGIT_GROUP, _NO_SPACES, _WORD)]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder that transformers' AutoTokenizer loads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


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
