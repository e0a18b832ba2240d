"""Any text that is of no other kind: one document a file."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipelines.documents.content.decode import Policy, Where, decode_file
from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.kind import Kind, Look
from data_pipelines.documents.content.signatures import known_by_name
from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.content.unpack import UnpackedFile
from data_pipelines.documents.kinds.jsonl import begins_with_object


def is_text(look: Look) -> bool:
    """Raises ValueError for what is another syntax by its name, or JSONL by its first line."""
    if problem := known_by_name(look.suffix):
        raise ValueError(problem)
    _refuse_jsonl(look.head)
    return True


def read_text(content: UnpackedFile, piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """Line ends come out as \\n. Raises UndecodableError."""
    policy, where = Policy(options, tally), Where(str(piece.file), of=content.place)
    data = b"".join(content.pieces())
    _refuse_jsonl(data, f"{piece.file} ")
    text = policy.attempt(lambda: decode_file(data, where, policy))
    if text is not None:
        yield Document(piece.name, text)


def _refuse_jsonl(data: bytes, where: str = "") -> None:
    if begins_with_object(data):
        raise ValueError(
            f"{where}looks like JSONL, its first line is a JSON object; rename it to .jsonl, or make it the text of a "
            "line of JSONL if it is text as it stands"
        )


TEXT = Kind("text", is_text, read_text)
