"""R6: whatever the ranks, their microbatches, their readers and where it stops, a run reads the same windows, each
once.

Pure loaders without process groups; a ramp of the batch and an edge of phases lie within the run. The number of
transitions is printed (pytest -s).
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter

import numpy as np
import pytest

from data_pipelines.batches.account import Account, account_problems, open_account
from data_pipelines.batches.loader import PlanLoader
from data_pipelines.corpora.files import FilesData
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.shards.source import TokenSource
from tests.data_pipelines.batches.test_loader import MIX, L
from tests.data_pipelines.conftest import MakeShards, opened, random_documents
from train.loop.data import build_plan
from train.schedule.config import BatchStage, Phase, ScheduleConfig
from train.schedule.timeline import Timeline, split_batch

TIMELINE = Timeline(
    ScheduleConfig(
        phases=[Phase(name="first", tokens=300 * L), Phase(name="second", tokens=300 * L)],
        batch=[BatchStage(from_tokens=0, sequences=12), BatchStage(from_tokens=120 * L, sequences=24)],
    ),
    seq_len=L,
)


@pytest.fixture
def prepared(make_shards: MakeShards) -> Prepared:
    a = make_shards("a", random_documents(3000, seed=1), random_documents(900, seed=2))
    sources = {"a": ShardSource(train=a), "b": ShardSource(train=make_shards("b", random_documents(2400, seed=3)))}
    return Prepared(tokenizer_dir="", sources=sources)


class Cluster:
    """The ranks of a start, stepped by the trainer's rules."""

    def __init__(self, prepared: Prepared, account: Account, *, ranks: int, at_most: int, readers: int, ahead: int):
        self.at_most, self.account, self.sources = at_most, account, opened(prepared).train
        self.plan = build_plan(FilesData(mix=MIX), self.sources, TIMELINE, seed=0)
        config = PlanLoader.Config(
            plan=self.plan,
            sources=self.sources,
            vocab_size=300,
            readers=readers,
            read_ahead=ahead,
            rows_at=self.rows_at,
        )
        self.loaders = [
            config.build(dp_world_size=ranks, dp_rank=rank, seq_len=L, local_batch_size=1) for rank in range(ranks)
        ]
        for loader in self.loaders:
            loader.load_state_dict({"plan": self.plan.hash, "next_window": account.next_window})
        self.streams = [iter(loader) for loader in self.loaders]

    def rows_at(self, window: int, ranks: int) -> int:
        step = TIMELINE.step(min(TIMELINE.ramp.step_of(window), TIMELINE.num_steps))
        return split_batch(step.num_windows, num_ranks=ranks, at_most=self.at_most)[1]

    def step(self) -> bytes:
        """The rows of the next step, in the order of the plan."""
        step = TIMELINE.step(self.account.step + 1)
        ranks = len(self.loaders)
        microbatches, rows = split_batch(step.num_windows, num_ranks=ranks, at_most=self.at_most)
        served = b""
        for loader in self.loaders:
            loader.rows = rows
        for _ in range(microbatches):
            for stream in self.streams:
                inputs, labels = next(stream)
                for row in range(rows):
                    served += b"".join(t[row].numpy().tobytes() for t in (*inputs.values(), labels))
        digest = sum(loader.pop_digest() for loader in self.loaders) % 2**64
        tokens = np.sum([loader.pop_tokens() for loader in self.loaders], axis=0)
        next_window = self.loaders[0].next_window
        self.account = self.account.add(step.number, f"{digest:016x}", tokens.tolist(), next_window)
        assert not account_problems(self.account, self.plan, step=step.number, next_window=next_window)
        return served


def start_of(prepared: Prepared) -> Account:
    return open_account(build_plan(FilesData(mix=MIX), opened(prepared).train, TIMELINE, seed=0))


def stream_hash(steps: list[bytes]) -> str:
    return hashlib.sha256(b"".join(steps)).hexdigest()


@pytest.mark.parametrize("seed", range(3))
def test_the_stream_is_bit_equal_over_transitions_at_random_steps(prepared: Prepared, seed: int) -> None:
    rng = random.Random(seed)
    reference = Cluster(prepared, start_of(prepared), ranks=1, at_most=1, readers=1, ahead=1)
    expected = [reference.step() for _ in range(TIMELINE.num_steps)]
    account, steps, transitions = start_of(prepared), [], -1
    before = 0
    while len(steps) < TIMELINE.num_steps:
        ranks = rng.choice([count for count in (1, 2, 3, 4) if count != before])
        before = ranks
        cluster = Cluster(
            prepared,
            account,
            ranks=ranks,
            at_most=rng.choice([1, 2, 3, 6, 24]),
            readers=rng.choice([1, 2, 3, 4]),
            ahead=rng.choice([1, 2, 8]),
        )
        transitions += 1
        for _ in range(min(rng.choice([1, 1, 2, 3]), TIMELINE.num_steps - len(steps))):
            steps.append(cluster.step())
        account = cluster.account
    assert stream_hash(steps) == stream_hash(expected)
    assert account == reference.account  # chain, and tokens of each phase and source
    assert transitions >= 10
    print(f"{transitions} transitions of ranks, microbatch and readers, {len(steps)} steps: stream hash bit-equal")


@pytest.mark.parametrize("readers", [1, 3])
def test_all_ranks_together_read_each_window_once(
    prepared: Prepared, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is shared by ranks, and nothing is read in vain: over the ramp too, where microbatches grow."""
    read: Counter[tuple[str, int]] = Counter()
    lock, window = threading.Lock(), TokenSource.window

    def counted(source: TokenSource, index: int, seq_len: int):
        with lock:
            read[source.uri, index] += 1
        return window(source, index, seq_len)

    monkeypatch.setattr(TokenSource, "window", counted)
    cluster = Cluster(prepared, start_of(prepared), ranks=4, at_most=6, readers=readers, ahead=8)
    for _ in range(TIMELINE.num_steps):
        cluster.step()
    plan = cluster.plan
    places = Counter((cluster.sources[(w := plan.window(g)).source].uri, w.index) for g in range(TIMELINE.num_windows))
    assert read == places
    assert sum(read.values()) == TIMELINE.num_windows
