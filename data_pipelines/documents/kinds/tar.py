"""Tars of text, as WebDataset has them, packed or not: members that are called alike up to the first dot are a sample.

    0001.txt           a document
    0001.json          an object that has the text in one of its fields, a document; beside a .txt it describes that one
    0001.jsonl         a document a line

Any other member is no text. Documents are named NAME:MEMBER, those of a .jsonl NAME:MEMBER:LINE.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any

from data_pipelines.documents.content.decode import Policy, Where, decode_file
from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.kind import Kind, Look
from data_pipelines.documents.content.signatures import HEAD_BYTES, known_by_content
from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.tally import ReadOptions, Tally, UndecodableError
from data_pipelines.documents.content.unpack import UnpackedFile
from data_pipelines.documents.kinds.jsonl import SUFFIXES, text_of_line

_BLOCK = tarfile.BLOCKSIZE
_PIECE_BYTES = 2**20
_OF = "of the member"


def is_tar(look: Look) -> bool:
    """By the sum over its first header, which the oldest ones have too; an empty one by its name."""
    if look.head == bytes(HEAD_BYTES):
        return "tar" in look.suffixes or look.suffix in ("tgz", "tbz2", "txz", "tzst")
    try:
        tarfile.TarInfo.frombuf(look.head[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def read_tar(content: UnpackedFile, piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """Raises UndecodableError for a member that is no text, ValueError for what is damaged, cut or joined."""
    source = _Counted(content)
    try:
        with tarfile.open(fileobj=source, mode="r|", errorlevel=2) as archive:  # pyright: ignore
            yield from _documents(archive, piece, Policy(options, tally))
            _check_end(archive.offset, source, content)
    except tarfile.TarError as error:
        raise ValueError(
            f"{piece.file}, byte {source.num_bytes:,}: damaged tar ({error}); fetch the file again, or leave it out of "
            "the pattern"
        ) from error


def _documents(archive: tarfile.TarFile, piece: Piece, policy: Policy) -> Iterator[Document]:
    sample, has_text, records = "", False, list[tuple[str, bytes]]()
    for member in archive:
        if member.isdir():
            continue
        name = _printable(member.name)
        if _sample(name) != sample:
            yield from _of_records(records, has_text, piece, policy)
            sample, has_text, records = _sample(name), False, []
        ending = name.rpartition(".")[2].lower() if "." in name else ""
        if not member.isreg() or ending not in ("txt", "json", *SUFFIXES):
            policy.attempt(lambda name=name, member=member: _refuse(f"{piece.file}, member {name}", member))
            continue
        data = archive.extractfile(member)
        assert data is not None, member.name  # it is a regular file
        if ending == "json":
            records.append((name, data.read()))
        elif ending == "txt":
            has_text = True
            yield from _one(name, data.read(), piece, policy, _text_of_file)
        else:
            yield from _lines(name, data, piece, policy)
    yield from _of_records(records, has_text, piece, policy)


def _of_records(records: list[tuple[str, bytes]], has_text: bool, piece: Piece, policy: Policy) -> Iterator[Document]:
    """The .json of a sample, which are documents unless they describe one."""
    if has_text:
        policy.tally.metadata += len(records)
        return
    for name, data in records:
        yield from _one(name, data, piece, policy, text_of_line)


def _one(name: str, data: bytes, piece: Piece, policy: Policy, read: Any) -> Iterator[Document]:
    where = Where(f"{piece.file}, member {name}", of=_OF)
    text = policy.attempt(lambda: read(data, where, policy))
    if text is not None:
        yield Document(f"{piece.name}:{name}", text)


def _text_of_file(data: bytes, where: Where, policy: Policy) -> str:
    if problem := known_by_content(data[:HEAD_BYTES]):
        raise UndecodableError(f"{where.document} {problem}")
    return decode_file(data, where, policy)


def _lines(name: str, data: IO[bytes], piece: Piece, policy: Policy) -> Iterator[Document]:
    offset = 0
    for number, line in enumerate(data, 1):
        where = Where(f"{piece.file}, member {name}, line {number}", offset, _OF)
        text = policy.attempt(lambda line=line, where=where: text_of_line(line, where, policy))
        if text is not None:
            yield Document(f"{piece.name}:{name}:{number}", text)
        offset += len(line)


def _refuse(where: str, member: tarfile.TarInfo) -> None:
    what = "is no text by its name" if member.isreg() else "is a link or a device, no file"
    raise UndecodableError(
        f"{where} {what}; text is read from .txt, .json and .jsonl: pack those alone, or rename it if it is text"
    )


def _sample(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Counted:
    """What tarfile reads from: it takes for the end what is only damaged or cut."""

    def __init__(self, content: UnpackedFile):
        self._content = content
        self.num_bytes = 0
        self.num_zeros = 0
        """At the end of what was read."""

    def read(self, size: int) -> bytes:
        data = self._content.checked(lambda: self._content.stream.read(size), self.num_bytes)
        self.num_bytes += len(data)
        zeros = len(data) - len(data.rstrip(b"\0"))
        self.num_zeros = self.num_zeros + zeros if zeros == len(data) else zeros
        return data


def _check_end(offset: int, source: _Counted, content: UnpackedFile) -> None:
    """offset: where the last member ends. A block of zeros at least must follow, and nothing else."""
    while source.read(_PIECE_BYTES):
        pass
    behind = source.num_bytes - offset
    if behind < _BLOCK:
        raise ValueError(
            f"{content.file}, byte {source.num_bytes:,} {content.place}: the tar is cut, it has no end mark; fetch the "
            "file again, or leave it out of the pattern"
        )
    if source.num_zeros < behind:
        raise ValueError(
            f"{content.file}, byte {offset:,} {content.place}: what follows is neither a member nor the end of the "
            "tar; fetch the file again, or pack what was joined to one tar"
        )


TAR = Kind("tar", is_tar, read_tar)
