"""The thread of each rank that tells the others what it is doing, and ends a run that does not move.

    every period:  a word on the board; does this rank move? has another one raised the alarm?
    at an alarm:   the stacks of all ranks -> <run>/stalls/; the one that raised it says who is to blame; exit

Nobody reads the words before there is an alarm, so that a period costs a rank two small messages to the store.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from data_pipelines.base.errors import RESUME_ADVICE, STALL_EXIT
from data_pipelines.base.files import write_whole
from data_pipelines.base.rank import node_name
from train.process.starts import append_event
from train.watchdog.board import Board
from train.watchdog.config import WatchdogConfig
from train.watchdog.pulse import Pulse, limit_s
from train.watchdog.report import Said, as_json, from_json, silent_ranks, suspects, table, verdict
from train.watchdog.stacks import answer_with_stacks, stacks_of, stop_answering

STOPPED = 4
"""A pause this many times as long as it should be was a stop of the process."""
REPORT_S = 60.0
"""How long a rank waits for the report of the one that raised the alarm."""
HOME_RANK = 0
"""Where the board lives, unless a launcher has it."""


@contextmanager
def watching(config: WatchdogConfig, pulse: Pulse, run_dir: Path) -> Iterator[None]:
    """Watches this rank while the block runs. Needs the default process group."""
    if not config.enable:
        yield
        return
    descriptor = answer_with_stacks()
    watchdog = Watchdog(config, pulse, run_dir, stacks=descriptor)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
        stop_answering(descriptor)


class Watchdog:
    """Of one rank."""

    def __init__(self, config: WatchdogConfig, pulse: Pulse, run_dir: Path, *, stacks: int):
        """stacks: descriptor of the file of answer_with_stacks."""
        self._config = config
        self._pulse = pulse
        self._run_dir = run_dir
        self._stacks = stacks
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        self._board = Board(distributed_c10d._get_default_store())
        self._beats = 0
        self._neighbours: dict[int, Said] = {}
        self._is_over = Event()
        self._is_alarmed = Event()
        self._thread = Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._speak()
        self._thread.start()

    def stop(self) -> None:
        """Does not return after an alarm: the main thread comes here when others have ended, which is no cause."""
        self._is_over.set()
        if self._is_alarmed.is_set():
            self._thread.join()

    def _watch(self) -> None:
        while not self._pause():
            if self.speak_and_look():
                self._end()

    def speak_and_look(self) -> bool:
        """What is done in every period. Returns whether the run does not move."""
        self._speak()
        self._meet_neighbours()
        limit = limit_s(self._config, self._pulse.activity, is_first_step=self._pulse.is_first_step)
        return self._pulse.seconds() > limit or self._board.has("alarm")

    def _pause(self) -> bool:
        """A period; whether the run is over. The time for which the process was stopped is nobody's fault but that of
        who stopped it: it is not counted."""
        started = time.monotonic()
        is_over = self._is_over.wait(self._config.period_s)
        if time.monotonic() - started > STOPPED * self._config.period_s:
            self._pulse.enter(self._pulse.activity)
        return is_over

    def _speak(self) -> None:
        self._beats += 1
        said = Said(
            rank=self._rank,
            host=node_name(),
            process=os.getpid(),
            stacks=self._stacks,
            beat=self._beats,
            step=self._pulse.step,
            activity=self._pulse.activity,
            seconds=self._pulse.seconds(),
            collectives=_collectives(),
        )
        self._board.put(_said(self._rank), as_json(said))

    def _meet_neighbours(self) -> None:
        """The other ranks of this host, so that they are known when the board does not answer."""
        size = int(os.environ.get("LOCAL_WORLD_SIZE", self._num_ranks))
        first = self._rank - int(os.environ["LOCAL_RANK"])
        missing = [rank for rank in range(first, first + size) if rank not in self._neighbours]
        self._neighbours |= self._listen(missing)

    def _listen(self, ranks: Iterable[int]) -> dict[int, Said]:
        words = self._board.read(map(_said, ranks))
        return {said.rank: said for said in map(from_json, filter(None, words.values()))}

    def _end(self) -> NoReturn:
        """Ends the process, whose main thread waits in C for a rank that will not come."""
        self._is_alarmed.set()
        with suppress(OSError):  # a full disk does not keep it
            self._leave_traces()
        os._exit(STALL_EXIT)

    def _leave_traces(self) -> None:
        seconds = self._pulse.seconds()
        folder = self._run_dir / "stalls" / time.strftime(f"%Y-%m-%d-%H%M%S-step-{self._pulse.step}", time.gmtime())
        folder = Path(self._board.claim("alarm", str(folder)))
        reporter = int(self._board.claim("reporter", str(self._rank)))
        if not self._board.answers:  # asked once: when its rank is woken up for its stacks, it answers again
            self._leave_traces_without_board(folder, seconds)
            return
        everybody = range(self._num_ranks)
        before = self._listen(everybody) if reporter == self._rank else {}
        self._write_own_stacks(folder)
        self._speak_for(2 * self._config.period_s)
        after = self._listen(everybody) if reporter == self._rank else {}
        self._write_missing_stacks(folder)
        if reporter == self._rank:
            self._report(folder, after, silent_ranks(before, after, self._num_ranks), seconds)
            self._board.put("reported", "")
        else:
            deadline = time.monotonic() + REPORT_S
            while not self._board.has("reported") and self._board.answers and time.monotonic() < deadline:
                self._speak_for(self._config.period_s / 4)

    def _leave_traces_without_board(self, folder: Path, seconds: float) -> None:
        """The rank that it lives in is silent, so that much is known. Each host goes by its own clock."""
        self._write_own_stacks(folder)
        time.sleep(2 * self._config.period_s)
        self._write_missing_stacks(folder)
        if self._rank == HOME_RANK + 1:
            self._report(folder, self._neighbours, [HOME_RANK], seconds)

    def _speak_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._speak()
            time.sleep(self._config.period_s / 4)
        self._speak()

    def _write_own_stacks(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(_stacks_file(folder, self._rank), stacks_of(os.getpid(), self._stacks))
        if torch.cuda.is_available():
            (folder / f"rank-{self._rank}.nccl").write_bytes(_flight_recorder())

    def _write_missing_stacks(self, folder: Path) -> None:
        """Of the ranks of this host that have not written theirs, by whichever of the others comes first."""
        for rank, one in self._neighbours.items():
            path = _stacks_file(folder, rank)
            if not path.exists():
                write_whole(path, stacks_of(one.process, one.stacks))

    def _report(self, folder: Path, said: dict[int, Said], silent: list[int], seconds: float) -> None:
        found = verdict(said, silent)
        message = f"the run does not move since {seconds:.0f} s: {found}"
        write_whole(folder / "report.txt", f"{message}\n\n{table(said, silent)}\n")
        hosts = sorted({said[rank].host for rank in suspects(said, silent) if rank in said})
        append_event(self._run_dir, "stall", step=self._pulse.step, suspects=hosts, reason=found)
        words = f"\nerror: {message}. Stacks of all ranks are in {folder}. {RESUME_ADVICE}\n"
        os.write(sys.stderr.fileno(), words.encode())


def _stacks_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.txt"


def _collectives() -> int:
    """That this process has entered, in all its groups: each of their backends counts its own, but that of the groups
    of one rank that torchtitan makes, which does nothing."""
    groups: list[Any] = list(distributed_c10d._world.pg_map)
    backends = {backend for group in groups for backend in map(group._get_backend, group._device_types)}
    return sum(backend._get_sequence_number_for_group() for backend in backends if backend.name() != "fake")


def _flight_recorder() -> bytes:
    """NCCL's last collectives, as torch's analyzer reads them; only in builds with NCCL."""
    from torch._C import _distributed_c10d

    return getattr(_distributed_c10d, "_dump_nccl_trace")()  # noqa: B009 (the stubs do not know it)


def _said(rank: int) -> str:
    return f"said/{rank}"
