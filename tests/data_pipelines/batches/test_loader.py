from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_pipelines.batches.loader import PlanLoader
from data_pipelines.batches.windows import IGNORE, window_hash
from data_pipelines.corpora.files import FilesData
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import Prepared, ShardSource
from tests.data_pipelines.conftest import MakeShards, opened, random_documents
from train.loop.data import build_plan
from train.schedule.config import BatchStage, Phase, ScheduleConfig
from train.schedule.timeline import Timeline

L = 16
MIX = {"first": {"a": 3.0, "b": 1.0}, "second": {"a": 1.0, "b": 3.0}}
TIMELINE = Timeline(
    ScheduleConfig(
        phases=[Phase(name="first", tokens=48 * L), Phase(name="second", tokens=48 * L)],
        batch=[BatchStage(from_tokens=0, sequences=8), BatchStage(from_tokens=32 * L, sequences=16)],
    ),
    seq_len=L,
)
SIZES = [8, 8, 8, 8, 16, 16, 16, 16]  # the steps of that timeline: a ramp at window 32, an edge of phases at 48


@pytest.fixture
def prepared(make_shards: MakeShards) -> Prepared:
    a = make_shards("a", random_documents(500, seed=1), random_documents(300, seed=2))
    b = make_shards("b", random_documents(400, seed=3))
    held_out = make_shards("h", random_documents(170, seed=4))
    sources = {"a": ShardSource(train=a, held_out=held_out), "b": ShardSource(train=b)}
    return Prepared(tokenizer_dir="", sources=sources)


def plan_of(prepared: Prepared, *, mix: dict[str, dict[str, float]] | None = MIX, seed: int = 0) -> Plan:
    return build_plan(FilesData(mix=mix), opened(prepared).train, TIMELINE, seed=seed)


def loader_of(
    prepared: Prepared,
    *,
    ranks: int = 1,
    rank: int = 0,
    batch: int = 8,
    mix: dict[str, dict[str, float]] | None = MIX,
    seed: int = 0,
    **settings,
) -> PlanLoader:
    plan = plan_of(prepared, mix=mix, seed=seed)
    config = PlanLoader.Config(plan=plan, sources=opened(prepared).train, **{"vocab_size": 300, **settings})
    return config.build(
        dp_world_size=ranks, dp_rank=rank, seq_len=L, local_batch_size=batch, tokenizer=None, snapshot_every_n_steps=1
    )


def steps_of(loaders: list[PlanLoader], sizes: list[int]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
    """Global batches of `sizes` windows, their rows in the order of the plan, with the digest summed over ranks."""
    streams = [iter(loader) for loader in loaders]
    steps = []
    for size in sizes:
        rows: list[tuple[torch.Tensor, ...]] = []
        while sum(len(row[0]) for row in rows) < size:
            for stream in streams:
                inputs, labels = next(stream)
                rows.append((inputs["input"], inputs["positions"], labels))
        digest = sum(loader.pop_digest() for loader in loaders) % 2**64
        steps.append((*(torch.cat(parts) for parts in zip(*rows, strict=True)), digest))
    return steps


def test_the_steps_used_here_are_those_of_the_timeline():
    steps = [TIMELINE.step(number) for number in range(1, TIMELINE.num_steps + 1)]
    assert [step.num_windows for step in steps] == SIZES


def test_the_stream_is_the_plan(prepared: Prepared):
    plan, sources = plan_of(prepared), opened(prepared).train
    steps = steps_of([loader_of(prepared, intra_document=False)], SIZES)
    inputs, labels = torch.cat([step[0] for step in steps]), torch.cat([step[2] for step in steps])
    for g in range(plan.num_windows):
        window = plan.window(g)
        tokens = sources[window.source].tokens(window.index * L, (window.index + 1) * L + 1).tolist()
        assert (inputs[g].tolist(), labels[g].tolist()) == (tokens[:-1], tokens[1:])


@pytest.mark.parametrize(("ranks", "batch"), [(1, 8), (1, 1), (2, 4), (2, 1), (4, 2), (4, 1), (8, 1)])
def test_any_number_of_ranks_and_microbatches_reads_the_1_rank_stream(prepared: Prepared, ranks: int, batch: int):
    reference = steps_of([loader_of(prepared)], SIZES)
    loaders = [loader_of(prepared, ranks=ranks, rank=rank, batch=batch) for rank in range(ranks)]
    for step, expected in zip(steps_of(loaders, SIZES), reference, strict=True):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(step[:3], expected[:3], strict=True))
        assert step[3] == expected[3]


@pytest.mark.parametrize("served", [0, 1, 4, 6, 7])
def test_4_ranks_resume_the_2_rank_stream_at_any_step(prepared: Prepared, served: int):
    """Step 4 is the batch ramp, the edge of the phases lies between steps 5 and 6."""
    reference = steps_of([loader_of(prepared)], SIZES)
    before = [loader_of(prepared, ranks=2, rank=rank, batch=2) for rank in range(2)]
    steps = steps_of(before, SIZES[:served])
    after = [loader_of(prepared, ranks=4, rank=rank, batch=2) for rank in range(4)]
    for loader in after:
        loader.load_state_dict(before[0].state_dict())
    steps += steps_of(after, SIZES[served:])
    assert all(torch.equal(mine[2], theirs[2]) for mine, theirs in zip(steps, reference, strict=True))
    assert [step[3] for step in steps] == [step[3] for step in reference]


def test_the_state_counts_exactly_what_was_handed_over(prepared: Prepared):
    loader = loader_of(prepared, ranks=2, rank=1, batch=2)
    stream = iter(loader)
    assert loader.state_dict() == {"plan": plan_of(prepared).hash, "next_window": 0}
    next(stream)
    next(stream)
    assert loader.state_dict()["next_window"] == 8


def test_the_plan_ends_where_a_batch_is_no_longer_full(prepared: Prepared):
    assert sum(1 for _ in loader_of(prepared, batch=8)) == 12
    assert sum(1 for _ in loader_of(prepared, batch=7)) == 13


def test_another_plan_is_refused(prepared: Prepared):
    state = loader_of(prepared).state_dict()
    with pytest.raises(ValueError, match=f"trained on data plan {state['plan']}, this run has plan"):
        loader_of(prepared, seed=1).load_state_dict(state)


def test_another_sequence_length_is_refused(prepared: Prepared):
    config = PlanLoader.Config(plan=plan_of(prepared), sources=opened(prepared).train, vocab_size=300)
    with pytest.raises(ValueError, match=r"windows of 16 tokens, got training\.seq_len=32"):
        config.build(dp_world_size=1, dp_rank=0, seq_len=32, local_batch_size=1)


def test_the_digest_is_the_sum_of_window_hashes(prepared: Prepared):
    plan, sources = plan_of(prepared), opened(prepared).train
    loader = loader_of(prepared, batch=4)
    next(iter(loader))
    hashes = [window_hash(g, sources[(w := plan.window(g)).source].window(w.index, L)) for g in range(4)]
    digest = loader.pop_digest()
    assert digest == sum(hashes) % 2**64
    assert loader.pop_digest() == 0


def test_batches_have_the_shapes_and_types_of_the_engine(prepared: Prepared):
    inputs, labels = next(iter(loader_of(prepared, batch=4)))
    assert sorted(inputs) == ["input", "positions"]
    for tensor in (*inputs.values(), labels):
        assert (tensor.shape, tensor.dtype) == ((4, L), torch.int64)


def test_positions_restart_after_each_document_and_its_end_is_not_asked_for_the_next(prepared: Prepared):
    """Token 1 ends every document of this corpus and occurs nowhere else."""
    for inputs, labels in loader_of(prepared, batch=8):
        ends = inputs["input"] == 1
        assert torch.equal(labels == IGNORE, ends)
        assert (inputs["positions"][:, 0] == 0).all()
        assert torch.equal(inputs["positions"][:, 1:] == 0, ends[:, :-1])
    for inputs, labels in loader_of(prepared, batch=8, intra_document=False):
        assert torch.equal(inputs["positions"], torch.arange(L).expand(8, L))
        assert (labels != IGNORE).all()


def test_an_id_beyond_the_vocabulary_is_refused_before_the_first_step(prepared: Prepared):
    with pytest.raises(DataError, match=r"token ids up to 299, beyond model\.vocab_size=299"):
        loader_of(prepared, vocab_size=299)


def test_an_id_beyond_the_vocabulary_is_named_by_file_and_byte(make_shards: MakeShards):
    uri = make_shards("a", [[5] * 900 + [400] + [5] * 99])
    manifest = Path(uri, "manifest.json")
    manifest.write_text(manifest.read_text().replace('"max_token_id": 400', '"max_token_id": 5'))
    prepared = Prepared(tokenizer_dir="", sources={"a": ShardSource(train=uri)})
    loader = loader_of(prepared, mix=None)
    with pytest.raises(DataError, match=r"00000\.ds, byte 1,800: token id 400 is beyond model\.vocab_size=300"):
        list(loader)


def test_a_flipped_bit_stops_the_run_at_the_batch_that_has_it(prepared: Prepared):
    path = Path(prepared.sources["b"].train, "00000.ds")
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"b/00000\.ds: bytes 64 to 128 differ"):
        list(loader_of(prepared))


def test_a_source_is_read_again_in_another_order(make_shards: MakeShards):
    """800 tokens of `a` are 49 windows; 96 windows of one source read it almost twice."""
    uri = make_shards("a", random_documents(800, seed=1))
    prepared = Prepared(tokenizer_dir="", sources={"a": ShardSource(train=uri)})
    plan = plan_of(prepared, mix=None)
    rows = [tuple(inputs["input"][0].tolist()) for inputs, _ in loader_of(prepared, mix=None, batch=1)]
    epochs = [plan.window(g).epoch for g in range(96)]
    first, second = ([row for row, epoch in zip(rows, epochs, strict=True) if epoch == e] for e in (0, 1))
    assert (len(first), len(second)) == (49, 47)
    assert set(second) < set(first)
    assert second != first[:47]
