"""A new tokenizer in a folder, with a vocabulary of exactly the size that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken

from data_pipelines.base.files import whole_folder
from data_pipelines.base.progress import progress_bar
from data_pipelines.tokenizer.bpe import SPECIAL_TOKENS, save_tokenizer, train_tokenizer

LEAST_IDS = 256 + len(SPECIAL_TOKENS)


def train_folder(texts: Iterable[str], folder: Path, *, vocab_size: int, most_chars: int) -> str:
    """Trains and saves; returns what was made, in words. Ids that the texts have no merges for become reserved special
    tokens, <|reserved_0|> and so on, which no text becomes.

    Raises ValueError where the folder is there, for a vocabulary without room for all bytes, and where there is no
    text; OSError where the folder cannot be written.
    """
    if folder.exists():
        raise ValueError(f"--out={folder} exists already; choose another folder, or move it away")
    if vocab_size < LEAST_IDS:
        raise ValueError(f"--vocab-size={vocab_size:,} has no room for 256 bytes and the special tokens: {LEAST_IDS}")
    read = 0

    def counted() -> Iterator[str]:
        nonlocal read
        for text in texts:
            read += len(text)
            bar.update(len(text))
            yield text

    with progress_bar(total=most_chars, desc="read", unit=" chars", unit_scale=True) as bar:
        tokenizer = train_tokenizer(counted(), vocab_size)
    if not read:
        raise ValueError("--input: the documents are all empty, nothing to train on")
    learnt = tokenizer.get_vocab_size()
    reserved = [f"<|reserved_{number}|>" for number in range(vocab_size - learnt)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in reserved])
    with whole_folder(folder) as partial:
        save_tokenizer(tokenizer, partial)
    merges = f"{learnt - LEAST_IDS:,} merges of {read:,} characters"
    return f"{folder}: {vocab_size:,} ids, {merges}, {len(reserved):,} reserved"
