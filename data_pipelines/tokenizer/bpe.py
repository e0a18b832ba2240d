"""A byte-level BPE that cuts text as Trinity's does: trained, and saved as a Hugging Face folder.

Text is cut before merging as Trinity's tokenizer does (arXiv 2602.17004): digits into groups of three from the right,
so that 1234567 is 1|234|567; runs of scripts that have no spaces; then words, punctuation and white space. Each rule
cuts what the rules before it left as if there were nothing around it: spaces before a digit end their piece, and stay
together. Every text has a tokenisation and comes back from it byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_pipelines.base.files import write_whole

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

RULES = (_DIGIT_RUN, _DIGIT_GROUP, _NO_SPACES, _WORD)
"""Each cuts what those before it left."""

# The same cuts by one expression, for texts without a run of more than 510 digits. Where a rule above meets the end of
# its piece, the text goes on here: with a digit or a letter of _NO_SPACES, which no word may take.
_TAKEN = rf"\p{{N}}{_NO_SPACES[1:-2]}"
_LETTER = rf"[\p{{L}}\p{{M}}&&[^{_TAKEN}]]"
_SIGN = rf"[\p{{P}}\p{{S}}&&[^{_TAKEN}]]"
_SINGLE = (
    rf"\p{{N}}{{1,3}}(?=(?:\p{{N}}{{3}})*(?!\p{{N}}))|[{_NO_SPACES[1:-2]}&&[^\p{{N}}]]+"
    r"|[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    rf"|[^\r\n\p{{L}}\p{{P}}\p{{S}}{_TAKEN}]?{_LETTER}+| ?{_SIGN}+[\r\n]*|\s*[\r\n]+|\s+(?![^\s{_TAKEN}])|\s+"
)
TRINITY_CUTS = rf"{_SINGLE}|(?:(?!{_SINGLE})[\s\S])+"

# Each merge inside of a word moves the rest of the word, so that a word without an end (a genome, a page of base64)
# would take quadratic time in training: 400,000 letters ran for minutes. Encoding takes n log n and is not cut.
_LONGEST_WORD_IN_TRAINING = r"[\s\S]{1,1024}"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with at most `vocab_size` ids, special tokens first. The same texts give the same tokenizer.

    Words of more than 1,024 characters are learnt from in pieces of that length; nothing else differs for them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _cut_by(*RULES, _LONGEST_WORD_IN_TRAINING)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = _cut_by(*RULES)
    return tokenizer


def _cut_by(*rules: str) -> pre_tokenizers.PreTokenizer:
    cuts = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in rules]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder that transformers' AutoTokenizer loads. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "tokenizer.json", tokenizer.to_str(pretty=True))  # save() fails with a bare Exception
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
