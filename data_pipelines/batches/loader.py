"""Serves the plan to one data-parallel rank. Extends torchtitan's BaseDataLoader.

Microbatch a of rank r, from window g on: windows g + a * (D * b) + r * b + [0, b) with D ranks and b windows a rank.
The ranks together read the same windows in any D x b, so the whole state is the number of the next window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchtitan.components.dataloader import BaseDataLoader

from data_pipelines.batches.ahead import ReadAhead
from data_pipelines.batches.windows import split_window, window_hash
from data_pipelines.plan.plan import Plan
from data_pipelines.plan.plan import Window as Place
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.source import TokenSource

Window = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(input, positions, labels), each int64 [L]"""
Batch = tuple[dict[str, Tensor], Tensor]
"""({"input": int64 [B, L], "positions": int64 [B, L]}, labels int64 [B, L])"""
Microbatch = tuple[int, int]
"""(global number of its first window over all ranks, windows that each rank gets)"""


class Read(NamedTuple):
    """What a reader has made of this rank's part of a microbatch."""

    batch: Batch
    digest: int
    """Sum of `window_hash` of its windows, modulo 2^64."""
    tokens: np.ndarray
    """Target tokens of each phase and source, int64 [phases, sources]."""


LOOKED_UP = 1024
"""Windows whose places are looked up together: 1 ms for all of them, 0.1 ms for a single one."""


class PlanLoader(BaseDataLoader):
    """Microbatches until the plan is used up. torchtitan iterates over it, and keeps its state in every checkpoint."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        plan: Plan
        """Which window comes when."""
        sources: Mapping[str, TokenSource]
        """Source name -> its tokens."""
        intra_document: bool = True
        """Restart positions at document edges and mask the label that crosses one."""
        vocab_size: int
        """Rows of the model's embedding; larger ids are refused before they reach it."""
        read_ahead: int = 8
        """Microbatches that are read before they are asked for."""
        readers: int = 1
        """Threads that read."""
        rows_at: Callable[[int, int], int] | None = None
        """(first window of a microbatch, ranks) -> windows that each rank gets of it, so that what is read ahead is
        right over a change of the batch; None: as many as in the one before."""

    def __init__(
        self, config: Config, *, dp_world_size: int, dp_rank: int, seq_len: int, local_batch_size: int, **_: Any
    ):
        """What else torchtitan passes (tokenizer, snapshot interval) has no meaning here."""
        if seq_len != config.plan.seq_len:
            raise ValueError(f"the plan counts windows of {config.plan.seq_len} tokens, got training.seq_len={seq_len}")
        if any(phase.seq_len for phase in config.plan.phases):
            raise ValueError("the plan has phases of several sequence lengths, which are planned and not yet trained")
        self._plan = config.plan
        self._sources = config.sources
        if problems := vocabulary_problems(self._sources, config.vocab_size):
            raise DataError("\n".join(problems))
        self._intra_document = config.intra_document
        self._vocab_size = config.vocab_size
        self._num_ranks, self._rank = dp_world_size, dp_rank
        self.rows = local_batch_size
        """Windows that each rank gets in the next microbatch; the trainer changes it where the batch ramps up."""
        self._next_window = 0
        self._digest = 0
        self._cells = {
            (phase, source.name): (p, s)
            for p, phase in enumerate(config.plan.phase_names)
            for s, source in enumerate(config.plan.sources)
        }
        self._places = lru_cache(8)(self._look_up)
        self._tokens = self._no_tokens()
        self._read_ahead, self._rows_at = config.read_ahead, config.rows_at
        self._pins = torch.cuda.is_available()
        self._ahead = ReadAhead(self._read_microbatch, readers=config.readers)

    def __iter__(self) -> Iterator[Batch]:
        while (end := self._next_window + self._num_ranks * self.rows) <= self._plan.num_windows:
            read = self._ahead.get((self._next_window, self.rows), then=self._following(end))
            self._digest = (self._digest + read.digest) % 2**64
            self._tokens += read.tokens
            # Counted before it is handed over: a checkpoint taken after this batch must not serve it again.
            self._next_window = end
            yield read.batch

    def _following(self, first: int) -> list[Microbatch]:
        """The microbatches from window `first` on that are to be read ahead; fewer where the plan ends before."""
        found: list[Microbatch] = []
        while len(found) < self._read_ahead:
            rows = self.rows
            if self._rows_at is not None and first < self._plan.num_windows:
                rows = self._rows_at(first, self._num_ranks)
            if first + self._num_ranks * rows > self._plan.num_windows:
                break
            found.append((first, rows))
            first += self._num_ranks * rows
        return found

    @property
    def plan(self) -> Plan:
        """Which window comes when."""
        return self._plan

    @property
    def next_window(self) -> int:
        """Global number of the first window of the next microbatch of rank 0."""
        return self._next_window

    def state_dict(self) -> dict[str, Any]:
        """The same on every rank, and for any number of ranks."""
        return {"plan": self._plan.hash, "next_window": self._next_window}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on after the window that was served last. Raises ValueError for the state of another plan."""
        if not self._plan.is_good_for(state_dict["plan"], state_dict["next_window"]):
            raise ValueError(
                f"the checkpoint was trained on data plan {state_dict['plan']}, this run has plan {self._plan.hash}: "
                "corpus, data.mix, data.skip, schedule.phases, training.seq_len or debug.seed differ for what was "
                "trained. Restore them, or start another run.dir"
            )
        self._next_window = int(state_dict["next_window"])

    def pop_digest(self) -> int:
        """Sum of `window_hash` of the windows served since the last call, modulo 2^64."""
        digest, self._digest = self._digest, 0
        return digest

    def pop_tokens(self) -> np.ndarray:
        """Target tokens served since the last call, counted in what was served: int64 [phases, sources]."""
        tokens, self._tokens = self._tokens, self._no_tokens()
        return tokens

    def digest_of(self, windows: Sequence[int]) -> int:
        """Sum of `window_hash` of any windows, read from the shards now, modulo 2^64. Raises DataError."""
        return sum(window_hash(g, self._tokens_of(self._plan.window(g))) for g in windows) % 2**64

    def _no_tokens(self) -> np.ndarray:
        return np.zeros((len(self._plan.phase_names), len(self._plan.sources)), np.int64)

    def _look_up(self, chunk: int) -> list[Place]:
        """Windows chunk * LOOKED_UP and those behind it."""
        return self._plan.windows(chunk * LOOKED_UP, min((chunk + 1) * LOOKED_UP, self._plan.num_windows))

    def _read_microbatch(self, microbatch: Microbatch) -> Read:
        """This rank's part. Whole, pinned where there is CUDA: nothing is left to be done when it is asked for."""
        first, rows = microbatch
        digest, tokens = 0, self._no_tokens()
        parts = torch.empty((3, rows, self._plan.seq_len), dtype=torch.int64, pin_memory=self._pins)
        out = parts.numpy()
        own = range(first + self._rank * rows, first + (self._rank + 1) * rows)
        for row, g in enumerate(own):
            place = self._places(g // LOOKED_UP)[g % LOOKED_UP]
            window_digest, window = self._read(g, place, out[:, row])
            digest += window_digest
            tokens[self._cells[place.phase, place.source]] += len(window[0])
        inputs, positions, labels = parts
        return Read(({"input": inputs, "positions": positions}, labels), digest % 2**64, tokens)

    def _read(self, g: int, place: Place, out: np.ndarray) -> tuple[int, Window]:
        """(its hash, window g), written into `out`, int64 [3, L]."""
        source, seq_len = self._sources[place.source], self._plan.seq_len
        tokens = self._tokens_of(place)
        edges = source.window_edges(place.index, seq_len) if self._intra_document else []
        return window_hash(g, tokens), split_window(tokens, edges, out)

    def _tokens_of(self, place: Place) -> np.ndarray:
        return read_window(self._sources[place.source], place.index, self._plan.seq_len, self._vocab_size)


def vocabulary_problems(sources: Mapping[str, TokenSource], vocab_size: int) -> list[str]:
    """Each source whose manifest has ids beyond the model's: a wrong tokenizer is found before the first step."""
    return [
        f"{source.uri}: token ids up to {source.manifest.max_token_id}, beyond model.vocab_size={vocab_size}; "
        "use the tokenizer that the model is made for, or raise model.vocab_size"
        for source in sources.values()
        if source.manifest.max_token_id >= vocab_size
    ]


def read_window(source: TokenSource, index: int, seq_len: int, vocab_size: int) -> np.ndarray:
    """Token ids of a window, int64 [seq_len + 1]. Raises DataError for an id that the model has no row for."""
    tokens = source.window(index, seq_len)
    if tokens.max() >= vocab_size:
        at = int(tokens.argmax())
        raise DataError(
            f"{source.position(index * seq_len + at)}: token id {tokens[at]} is beyond model.vocab_size={vocab_size}; "
            "use the tokenizer that the model is made for, or raise model.vocab_size"
        )
    return tokens


def stack(windows: list[Window]) -> Batch:
    """B windows -> one microbatch."""
    inputs, positions, labels = (torch.from_numpy(np.stack(rows)) for rows in zip(*windows, strict=True))
    return {"input": inputs, "positions": positions}, labels
