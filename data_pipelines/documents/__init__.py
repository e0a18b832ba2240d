"""Files -> documents: find (which files) -> pieces (parts that are read alone) -> kinds (JSONL, tables, tars, text).

find       patterns -> StoredFile
pieces     StoredFile -> Piece -> Document
kinds/     one file for each kind of source, and the list of them
content/   what all kinds read with: unpacking, decoding, what a file is by its first bytes, what was left out
"""

from __future__ import annotations

from data_pipelines.documents.content.document import Document as Document
