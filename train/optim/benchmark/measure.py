"""Starts the ranks, and what each of them does: every contestant in turn steps the same matrices, timed and counted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.profiler import ProfilerActivity, profile

from data_pipelines.base.workers import end_with_parent
from train.engine.cpu import adapt_engine
from train.engine.mesh import world_size
from train.optim.benchmark.bounds import needed_bytes, needed_flops
from train.optim.benchmark.contestants import Contestant, contestants
from train.optim.benchmark.counting import counted
from train.optim.benchmark.problem import Named, hidden_parameters, sharded_spread, whole_spread
from train.optim.muon import Muon
from train.optim.orthogonal.exchange import MARK
from train.process.warm import nothing_left_behind, warm_up

if TYPE_CHECKING:
    from train.config.run import ModelSections

RESULT = "result.pt"


@dataclass(kw_only=True)
class Measured:
    """Of a contestant. Lists have an entry a step or a rank."""

    seconds: list[float] = field(default_factory=list)
    """Of each timed step, until the last rank has ended it."""
    cpu_seconds: list[float] = field(default_factory=list)
    """Of each timed step, all ranks together."""
    flops: list[int] = field(default_factory=list)
    """Of each rank, in a step."""
    received: list[int] = field(default_factory=list)
    """Bytes of each rank, in a step."""
    needed_flops: float = 0
    """By all ranks together."""
    needed_bytes: float = 0
    """By all ranks together."""
    phases: dict[str, float] = field(default_factory=dict)
    """Phase -> seconds of a step, mean over the ranks; of ours only."""
    refusal: str = ""
    """Why it cannot work here."""

    @property
    def flops_ratio(self) -> float:
        """Done over needed."""
        return sum(self.flops) / self.needed_flops

    @property
    def bytes_ratio(self) -> float:
        """Received over needed."""
        return sum(self.received) / self.needed_bytes if self.needed_bytes else 1.0

    @property
    def balance(self) -> float:
        """Flops of the busiest rank over the mean."""
        return max(self.flops) * len(self.flops) / sum(self.flops)

    @property
    def step_seconds(self) -> float:
        return median(self.seconds)

    @property
    def step_cpu_seconds(self) -> float:
        return median(self.cpu_seconds)


def measure(sections: ModelSections, names: list[str], *, steps: int) -> dict[str, Measured]:
    """Contestant -> what it took, on ranks of this machine with a thread each. Rank 0 tells how far it is.

    steps: timed ones; one that is counted comes before them and, of ours, one that is profiled after.
    """
    num_ranks = world_size(sections.parallelism)
    warm_up()
    with TemporaryDirectory() as folder, nothing_left_behind():
        start_processes(_rank_main, (sections, names, steps, num_ranks, folder), num_ranks, start_method="forkserver")
        return {name: Measured(**result) for name, result in torch.load(Path(folder, RESULT)).items()}


def _rank_main(rank: int, sections: ModelSections, names: list[str], steps: int, num_ranks: int, folder: str) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    os.environ["WORLD_SIZE"] = str(num_ranks)
    adapt_engine()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_ranks)
    shapes, known = hidden_parameters(sections), contestants(sections)
    results = {name: asdict(_measure_one(name, known[name], shapes, steps)) for name in names}
    if rank == 0:
        torch.save(results, Path(folder, RESULT))
    dist.destroy_process_group()


def _measure_one(name: str, contestant: Contestant, shapes: Named, steps: int) -> Measured:
    spread = sharded_spread(shapes) if contestant.is_sharded else whole_spread(shapes, dist.get_world_size())
    measured = Measured(
        needed_flops=needed_flops(spread), needed_bytes=needed_bytes(spread, update_bytes=contestant.update_bytes)
    )
    try:
        optimizer = contestant.make(shapes)
    except ValueError as error:
        _say(f"{name}: {error}")
        return Measured(refusal=str(error))
    with counted() as counts:  # the first step, which also makes states and fills caches
        optimizer.step()
    measured.flops, measured.received = _of_ranks(counts.flops), _of_ranks(counts.received)
    for number in range(1, steps + 1):
        seconds, cpu_seconds = _timed(optimizer.step)
        measured.seconds.append(seconds)
        measured.cpu_seconds.append(cpu_seconds)
        _say(f"{name}: step {number} of {steps}, {seconds:.2f} s, {cpu_seconds:.2f} s of CPU")
    if isinstance(optimizer, Muon):
        measured.phases = _phases(optimizer.step)
    return measured


def _timed(step: Callable[[], Any]) -> tuple[float, float]:
    """(seconds until all ranks have ended it, CPU seconds of all of them)."""
    dist.barrier()
    started, cpu_started = time.perf_counter(), time.process_time()
    step()
    cpu_seconds = time.process_time() - cpu_started
    dist.barrier()
    return time.perf_counter() - started, sum(_of_ranks(cpu_seconds))


def _phases(step: Callable[[], Any]) -> dict[str, float]:
    """Phase -> seconds, mean over the ranks, in the order in which they begin."""
    with _no_stderr(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    own = exclusive_seconds(
        (event.name.removeprefix(MARK), event.time_range.start, event.time_range.end)
        for event in profiler.events() or []
        if event.name.startswith(MARK)
    )
    of_ranks = _of_ranks(own)
    return {phase: sum(phases[phase] for phases in of_ranks) / len(of_ranks) for phase in own}


def exclusive_seconds(ranges: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """Name -> seconds within its ranges that are not within a range inside of these, in the order in which they begin.

    ranges: name, start and end in microseconds; two either lie one in the other or apart.
    """
    seconds: dict[str, float] = {}
    around: list[tuple[str, float]] = []  # those that a range lies in, with their ends
    for name, start, end in sorted(ranges, key=lambda range_: (range_[1], -range_[2])):
        while around and around[-1][1] <= start:
            around.pop()
        seconds[name] = seconds.get(name, 0.0) + (end - start) / 1e6
        if around:
            seconds[around[-1][0]] -= (end - start) / 1e6
        around.append((name, end))
    return seconds


@contextmanager
def _no_stderr() -> Iterator[None]:
    """The profiler's library tells there when it starts and stops, whatever its log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _of_ranks(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)
