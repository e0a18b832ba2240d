"""The texts in a column of Arrow's record batches, which Parquet is read as too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, count

import pyarrow as pa

from data_pipelines.documents.content.decode import Policy, Where, checked_text, decode_value, has_controls
from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.tally import UndecodableError

_AS_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
    **{kind: kind for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
}
"""Type of a text -> the bytes of it as they are stored: pyarrow checks UTF-8 late or never, and names no place."""


def column_of(schema: pa.Schema, text_key: str, where: str) -> tuple[str, ...]:
    """The way to the texts: a column of that name, else the parts between its dots, from the outside in.

    Raises ValueError where there is none and where it holds no text.
    """
    if schema.names.count(text_key.partition(".")[0]) > 1:
        raise ValueError(f"{where}: has several columns {text_key.partition('.')[0]!r}; write it anew with one")
    way = (text_key,) if text_key in schema.names else tuple(text_key.split("."))
    fields: dict[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))
    kind = pa.null()
    for name in way:
        if name not in fields:
            raise ValueError(f"{where}: expected text under {text_key!r}, got {_some(schema.names)}; set text_key")
        kind = fields[name]
        fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    if _plain(kind) not in _AS_BYTES and not pa.types.is_null(kind):
        raise ValueError(f"{where}: expected text under {text_key!r}, got {kind}; set text_key")
    return way


def documents_of(
    batches: Iterable[pa.RecordBatch], way: tuple[str, ...], piece: Piece, policy: Policy, *, rows: Iterator[str]
) -> Iterator[Document]:
    """A document a row; rows: what each is called. Raises UndecodableError."""
    for value, row in zip(chain.from_iterable(_values(batch, way) for batch in batches), rows, strict=False):
        where = f"{piece.file}, row {row}"
        text = policy.attempt(lambda value=value, where=where: _text(value, where, policy))
        if text is not None:
            yield Document(f"{piece.name}:{row}", text)


def rows_from(first: int, batch: str = "") -> Iterator[str]:
    """Names of all rows from number `first` on, of a batch where rows are counted in each."""
    return (f"{batch}{number}" for number in count(first))


def _values(batch: pa.RecordBatch, way: tuple[str, ...]) -> Iterator[bytes | None]:
    """Nothing is looked at before it is validated: damaged offsets and numbers lead anywhere in memory."""
    column, *inner = way
    array, are_there = batch.column(column), list[pa.BooleanArray]()
    for name in inner:
        array.validate()
        are_there.append(array.is_valid())
        array = array.field(name)
    values = (value.as_py() for value in _as_bytes(array))
    for value, *there in zip(values, *are_there, strict=True):
        yield value if all(one.as_py() for one in there) else None


def _as_bytes(array: pa.Array) -> pa.Array:
    """An array of texts as the bytes that are stored, validated. Raises pyarrow's errors."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        array.indices.validate(full=True)
        array = pa.DictionaryArray.from_arrays(array.indices, _as_bytes(array.dictionary), safe=True)
        return array.dictionary_decode()
    if array.type in _AS_BYTES:
        array = array.view(_AS_BYTES[array.type])
    array.validate(full=True)
    return array


def _text(value: bytes | None, where: str, policy: Policy) -> str:
    text_key = policy.options.text_key
    if value is None:
        raise UndecodableError(f"{where}: expected text under {text_key!r}, got null; remove the row")
    text = decode_value(value, Where(where, of=f"of {text_key!r}"), policy)
    return checked_text(text, where, text_key, policy) if has_controls(value) else text


def _plain(kind: pa.DataType) -> pa.DataType:
    """What is stored of an extension of a type, and what is meant by the numbers of a dictionary."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if isinstance(kind, pa.DictionaryType) else kind


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "no column"
    return shown + (f", ... ({len(names):,} in all)" if len(names) > 8 else "")
