"""What a tokenizer loses: short texts go through it, and what comes back is compared.

Not an error: SentencePiece vocabularies of good models lose spaces at the edges too. But it is to be known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer

_TEXTS = ("The end.", " a  b\n\n\tc \n", "A\u00c9e\u0301 \ufb01 x\u00b2", "\u201cq\u201d \u2026\u2014", "x = 1.50e-3;")
# Together they have every byte that UTF-8 has outside of control characters.
_CHARACTERS = (
    *map(chr, range(0x20, 0x7F)),
    *map(chr, range(0xA0, 0x100)),
    *map(chr, range(0x100, 0x800, 0x40)),
    *map(chr, range(0x800, 0xD800, 0x800)),
    *map(chr, range(0xE000, 0x10000, 0x800)),
    *map(chr, range(0x10000, 0x110000, 0x10000)),
)


def losses(tokenizer: Tokenizer, eos_id: int) -> Iterator[str]:
    """What to say of it, nothing for one that gives every text back. Raises Exception for a text that has no tokens."""
    for text in (*_TEXTS, "".join(_CHARACTERS)):
        if _again(tokenizer, text) != text:
            short = next((f"x{one}y" for one in _CHARACTERS if _again(tokenizer, f"x{one}y") != f"x{one}y"), text)
            yield f"loses text: {short!r} comes back as {_again(tokenizer, short)!r}, and the model learns no other"
            break
    end = tokenizer.id_to_token(eos_id)
    if eos_id in tokenizer.encode(f"a {end} b", add_special_tokens=False).ids:
        yield f"{end!r} written in a document ends it there, since it is not marked as special in tokenizer.json"


def _again(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
