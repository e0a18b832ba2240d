"""A Hugging Face tokenizer as the tokenizer keys of a GGUF file.

llama.cpp has the rules that cut a text before merging in its own code, under names. `afmoe` is its name for those of
Trinity's tokenizer, which data_pipelines/tokenizer/ follows. A tokenizer that cuts otherwise would load under that
name and give other ids than in training, so it is refused.

The ids are those of training except in two cases. llama.cpp cuts no edge between a number and the text before it, so
that of several spaces before a digit the last one stands alone; a tokenizer.json, Trinity's as well as ours, isolates
the number first and keeps the spaces together (0.01 to 0.1 % more tokens in Python source). And llama.cpp groups the
digits of any run from its end, where ours are cut at 510 first, for speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipelines.base.errors import ConfigError
from data_pipelines.tokenizer.encoder import TextEncoder

CUT = (
    *("It", "'s", " ", "1", "234", "567", " apples", ",", " naïve", "工作カナ한국", "abc", "(x", "_y", ")"),
    *(" e\u0301", "!!\n", " \n", " ", " end", "\t "),
)
"""A text in the pieces that llama.cpp's rules for `afmoe` cut it into: at least one piece by each of the rules."""


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, *, vocab_size: int) -> None:
    """Tokens, merges, special ids and, where the folder has one, the chat template.

    vocab_size: rows of the embedding; llama.cpp takes their number from the list of tokens, so rows that the tokenizer
    does not use become unused tokens. Raises ConfigError for a tokenizer that llama.cpp would not follow, or that has
    more ids than rows; ValueError where `folder` has no tokenizer or no end-of-text token.
    """
    encoder = TextEncoder(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    problem = _problem(tokenizer, num_ids=encoder.vocab_size, vocab_size=vocab_size)
    if problem:
        raise ConfigError([f"{folder / 'tokenizer.json'}: {problem}"])
    tokens, types = zip(*_tokens(tokenizer, vocab_size), strict=True)
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for every byte-level BPE
    writer.add_tokenizer_pre("afmoe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=vocab_size)
    special.special_token_ids["eos"] = encoder.eos_id  # the one that ended every document in training
    special.add_to_gguf(writer, quiet=True)


def _problem(tokenizer: Tokenizer, *, num_ids: int, vocab_size: int) -> str | None:
    if num_ids > vocab_size:
        return f"has {num_ids:,} ids, more than model.vocab_size={vocab_size:,}; export with the run's own tokenizer"
    if not isinstance(tokenizer.model, models.BPE):
        return f"is {type(tokenizer.model).__name__}; a GGUF file of this architecture needs BPE, use --format hf"
    if tokenizer.normalizer is not None:
        return "normalises text, which llama.cpp would not do; use --format hf"
    if not _cuts_like_trinity(tokenizer):
        return (
            "does not cut text as Trinity's does, and llama.cpp's name `afmoe` means nothing else; use --format hf,"
            " then llama.cpp's convert_hf_to_gguf.py, which knows more names"
        )
    return None


def _cuts_like_trinity(tokenizer: Tokenizer) -> bool:
    cutter, to_bytes = tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if cutter is None:
        return False
    expected = [to_bytes.pre_tokenize_str(piece)[0][0] for piece in CUT]
    return [piece for piece, _ in cutter.pre_tokenize_str("".join(CUT))] == expected


def _tokens(tokenizer: Tokenizer, vocab_size: int) -> Iterator[tuple[str, gguf.TokenType]]:
    """Text and type of each row. Control tokens are never found in text unless the caller asks; user-defined are."""
    texts = {token_id: text for text, token_id in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.get_added_tokens_decoder()
    for token_id in range(vocab_size):
        if token_id not in texts:
            yield f"[PAD{token_id}]", gguf.TokenType.UNUSED  # as llama.cpp's converter: texts must differ
        elif token_id not in added:
            yield texts[token_id], gguf.TokenType.NORMAL
        else:
            special = added[token_id].special
            yield texts[token_id], gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
