"""How documents are to be read, and what became of them: every one that was left out is counted and listed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

Undecodable: TypeAlias = Literal["error", "skip", "replace"]

OVER_LONG_CHARS = 2**24
"""Documents of more characters are counted: most are dumps of something else, and one of them fills many windows."""
LISTED = 10
"""Places of what was left out that are kept for people."""


class ReadOptions(NamedTuple):
    """How the text of documents is found and what becomes of what is none."""

    text_key: str = "text"
    """Field or column that holds the text; `a.b` is field b of a."""
    undecodable: Undecodable = "error"
    """What becomes of a document that cannot be decoded. `error`: reading ends. `skip`: it is left out, counted and
    listed. `replace`: bytes that are not UTF-8, half surrogates and the control characters in a text of JSON or a table
    become U+FFFD, which is counted; all else is an error."""


class UndecodableError(ValueError):
    """A document is no text; its file may go on behind it.

    mendable: whether U+FFFD can stand for what cannot be decoded.
    """

    def __init__(self, why: str, *, mendable: bool = False):
        super().__init__(why)
        self.mendable = mendable


@dataclass(slots=True)
class Tally:
    """What was read. Tallies of pieces add up to the tally of their files, in the order of the pieces."""

    documents: int = 0
    """Given out, the empty ones among them."""
    empty: int = 0
    """Given out without a character."""
    over_long: int = 0
    """Given out with more than OVER_LONG_CHARS characters, whole."""
    replaced: int = 0
    """Given out with U+FFFD where something else could not be decoded."""
    undecodable: int = 0
    """Left out."""
    places: list[str] = field(default_factory=list)
    """The first LISTED of those that were left out or mended, and why."""
    characters: int = 0
    """Of all documents that were given out."""
    metadata: int = 0
    """Members of tars that describe another member and were not read."""
    _is_mended: bool = False

    def add(self, text: str) -> None:
        """A document was given out."""
        self.documents += 1
        self.empty += not text
        self.over_long += len(text) > OVER_LONG_CHARS
        self.characters += len(text)
        self.replaced += self._is_mended
        self._is_mended = False

    def leave_out(self, why: Exception | str) -> None:
        """A document was left out."""
        self.undecodable += 1
        self._list(f"left out: {why}")

    def mend(self, why: Exception | str) -> None:
        """Something in the document that is given out next was replaced."""
        self._list(f"replaced: {why}")
        self._is_mended = True

    def __iadd__(self, other: Tally) -> Tally:
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.places = [*self.places, *other.places][:LISTED]
        return self

    def report(self) -> list[str]:
        """Lines for people; one where nothing was out of the ordinary."""
        counts = Counter({name: getattr(self, name) for name in _NOTED})
        noted = [f"{count:,} {_NOTED[name]}" for name, count in counts.items() if count]
        left = self.undecodable + self.replaced - len(self.places)
        more = [f"  ... and {left:,} more"] if left > 0 else []
        return [", ".join([f"{self.documents:,} documents", *noted]), *(f"  {place}" for place in self.places), *more]

    def _list(self, place: str) -> None:
        if len(self.places) < LISTED:
            self.places.append(place)


_NOTED = {
    "empty": "of them empty",
    "over_long": f"of more than {OVER_LONG_CHARS:,} characters",
    "replaced": "with replaced characters",
    "undecodable": "left out as undecodable",
    "metadata": "members of tars not read, which describe others",
}
_COUNTS = ("documents", "characters", *_NOTED)
