"""Token shards that others wrote, each format in a file: where its tokens lie, and where its documents end.

Nothing is copied: `index` makes a manifest, and beside it the ends of documents and hashes of the tokens, which stay
where they lie. From then on all are read in the same way (data_pipelines/shards). A new format is a file here and a
line in FORMATS.
"""

from __future__ import annotations

from data_pipelines.formats.datatrove import find_datatrove
from data_pipelines.formats.foreign import Find
from data_pipelines.formats.megatron import find_megatron
from data_pipelines.formats.olmo import find_olmo
from data_pipelines.formats.parquet_ids import find_parquet

FORMATS: dict[str, Find] = {
    "datatrove": find_datatrove,
    "megatron": find_megatron,
    "olmo": find_olmo,
    "parquet": find_parquet,
}
