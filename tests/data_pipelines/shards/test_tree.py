"""The tree of hashes: of the tokens and ends that are there, found by whoever reads any of them, and cheap to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xxhash

from data_pipelines.shards.datatrove import Source
from data_pipelines.shards.manifest import DataError, Manifest
from data_pipelines.shards.shard import TreeReader
from data_pipelines.shards.tree import BLOCK_BYTES, PAGE_BYTES, RECORD, TreeWriter, level_bytes
from data_pipelines.shards.writer import ShardWriter
from tests.counted import CountedStore, read_bytes
from tests.data_pipelines.conftest import MakeShards, make_version_1, random_documents

xxh3 = xxhash.xxh3_64_intdigest


def test_a_tree_by_hand():
    """Blocks of two tokens of 2 bytes: a a | a E | b E | c. A document ends in the block of its last token."""
    written = bytearray()
    tree = TreeWriter(written.extend, block_bytes=4)
    tree.add(b"a a a E ", b"end at 4")
    tree.add(b"b E ", b"end at 6")
    tree.add(b"c ", b"end at 7")
    root = tree.close()
    assert np.frombuffer(written, RECORD).tolist() == [
        (xxh3(b"a a "), xxh3(b""), 0),
        (xxh3(b"a E "), xxh3(b"end at 4"), 0),
        (xxh3(b"b E "), xxh3(b"end at 6"), 1),
        (xxh3(b"c "), xxh3(b"end at 7"), 2),
    ]
    assert root == xxhash.xxh3_128_hexdigest(bytes(written))


@pytest.mark.parametrize(
    ("num_blocks", "levels"),
    [
        (0, [0]),
        (1, [24]),
        (128, [3072]),
        (129, [3096, 16]),
        (128 * 384, [128 * 384 * 24, 3072]),
        (50_000, [1_200_000, 3128, 16]),
    ],
)
def test_every_level_is_the_hashes_of_the_pages_below(num_blocks: int, levels: list[int]):
    written = bytearray()
    tree = TreeWriter(written.extend, block_bytes=2)
    tokens = np.arange(num_blocks, dtype="<u2").tobytes()
    if tokens:
        tree.add(tokens, b"")
    root = tree.close()
    assert level_bytes(num_blocks) == levels
    assert len(written) == sum(levels)
    level, start = bytes(written[: levels[0]]), 0
    for size in levels[1:]:
        start += len(level)
        pages = [level[at : at + PAGE_BYTES] for at in range(0, len(level), PAGE_BYTES)]
        level, below = bytes(written[start : start + size]), pages
        assert level == b"".join(xxh3(page).to_bytes(8, "little") for page in below)
    assert root == xxhash.xxh3_128_hexdigest(level)


def test_a_tree_of_three_levels_is_read_from_any_place(make_shards: MakeShards):
    documents = random_documents(50_000, seed=3)
    source = Source(make_shards("s", documents, block_bytes=2))
    flat, ends = np.concatenate(documents), np.cumsum([len(document) for document in documents])
    for start in range(0, 50_000 - 40, 977):
        assert source.tokens(start, start + 40).tolist() == flat[start : start + 40].tolist()
        assert source.document_ends(start, start + 40).tolist() == ends[(start < ends) & (ends < start + 40)].tolist()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_damaged_page_of_any_level_is_named_before_a_token_is_believed(make_shards: MakeShards, level: int):
    uri = make_shards("s", random_documents(50_000, seed=3), block_bytes=2)
    start = sum(level_bytes(50_000)[:level])
    path = Path(uri, "00000.ds.hashes")
    content = bytearray(path.read_bytes())
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"00000\.ds\.hashes: bytes {start:,} to [\d,]+ differ"):
        Source(uri).tokens(0, 5)


def test_damaged_ends_are_named_where_they_are_read(make_shards: MakeShards):
    uri = make_shards("s", [[5, 1]] * 100, block_bytes=8)  # two documents a block: 16 bytes of the index
    path = Path(uri, "00000.ds.index")
    content = bytearray(path.read_bytes())
    content[800 - 8] ^= 1
    path.write_bytes(content)
    source = Source(uri)
    assert source.tokens(190, 200).tolist() == [5, 1] * 5
    assert source.document_ends(0, 190).tolist() == list(range(2, 190, 2))
    with pytest.raises(DataError, match=r"00000\.ds\.index: bytes 784 to 800 differ .* documents that end in block 49"):
        source.document_ends(190, 200)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 4M ids of 2 bytes, in documents as long as those of the web: a median of 600, a mean of 1,000."""
    folder, rng = tmp_path_factory.mktemp("web"), np.random.default_rng(0)
    ids, records = rng.integers(4, 60_000, 20_000).tolist(), []
    for name in ("00000", "00001"):
        with ShardWriter(str(folder), name, "uint16") as writer:
            for length in np.minimum(rng.lognormal(np.log(600), 1, 4200), 20_000).astype(int):
                writer.add("", ids[: max(1, length)])
        records.append(writer.record)
    Manifest(dtype="uint16", eos_id=1, tokenizer="t", shards=tuple(records)).save(str(folder))
    return folder


@pytest.mark.parametrize(("seq_len", "most"), [(4096, 2.0), (8192, 1.5)])
def test_windows_in_random_order_read_little_more_than_they_use(web: Path, seq_len: int, most: float):
    source = Source(f"counted://{web}")
    order = np.random.default_rng(1).permutation(source.num_windows(seq_len))
    CountedStore.reads.clear()
    for index in order.tolist():
        source.window(index, seq_len)
        source.window_edges(index, seq_len)
    assert len(CountedStore.reads) / len(order) <= 3.1  # tokens, ends, and sometimes a page of hashes
    assert read_bytes() / (len(order) * 2 * (seq_len + 1)) <= most


def test_a_window_of_which_nothing_is_known_reads_at_most_four_times_what_it_uses(web: Path):
    """As in 10T tokens, where no page of hashes is met again: each window with a reader of its own."""
    uri, seq_len, manifest = f"counted://{web}", 4096, Manifest.load(str(web))
    CountedStore.reads.clear()
    starts = np.random.default_rng(2).integers(0, manifest.shards[0].tokens - seq_len - 1, 200).tolist()
    for start in starts:
        reader = TreeReader(uri, manifest)
        reader.tokens(0, start, start + seq_len + 1)
        reader.ends(0, start, start + seq_len + 1)
    # tokens w + 4 KiB, a page of records of 3 KiB, the top; a page of 3 KiB between them from 192 MiB on
    used = 2 * (seq_len + 1)
    expected = (used + BLOCK_BYTES + PAGE_BYTES * 1.1 + level_bytes(2048)[-1] + 100) / used
    assert read_bytes() / (200 * used) == pytest.approx(expected, rel=0.03)
    assert expected + PAGE_BYTES / used <= 2.5


def test_version_1_read_a_block_of_the_manifest_for_a_window(web: Path, tmp_path: Path):
    """What the tree is for: the same window, hashed in blocks of 16 MiB."""
    for file in web.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    source = Source(f"counted://{make_version_1(str(tmp_path), 16 * 2**20)}")
    CountedStore.reads.clear()
    source.window(7, 4096)
    source.window_edges(7, 4096)
    assert read_bytes() > 500 * 2 * 4097
