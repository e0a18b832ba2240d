"""Copies metrics.jsonl to W&B while it grows, in a thread: a step waits for nothing, and nothing gets lost.

W&B is a copy of the file, each row once. Whatever keeps rows from it (no network, a client that hangs or dies, a
killed process with rows in its buffers) is made up for by the next connection, of this start or of a later one: it asks
W&B for the last step that it has, and goes on behind that. Steps that a resumed run takes again are there already; they
are the same numbers, and are not sent twice.

W&B counts steps of its own, which cannot go back. A rewound run does, so from then on W&B's step is the run's plus a
shift, and what was before the rewind stays visible beside what came after it. The axis of the charts is tokens.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

from data_pipelines.base.files import write_whole
from train.metrics.events import Alert, History, alerts, marks
from train.metrics.jsonl import FILE_NAME
from train.metrics.row import Row
from train.process.children import children

STATE_FILE = "wandb_state.json"
RETRY_S = 300.0
"""From one attempt to reach W&B to the next."""
CLOSE_S = 30.0
"""How long the end of a run waits for W&B: less than a cluster gives a job after its signal."""
MARKS_KEPT = 20
"""One could do, if no two starts in a row were killed."""
STEP = re.compile(rb'\{"step": (\d+)[,}]')


@dataclass
class State:
    """<run>/wandb_state.json: what has to be known of W&B and cannot be asked of it."""

    logged: int = 0
    """Last step of W&B at the last orderly end: offline folders go once they are uploaded."""
    shift: int = 0
    """W&B's step less the run's."""
    alerted: int = 0
    """Lines of starts.jsonl whose alerts W&B has."""
    marks: list[tuple[int, int, int]] = field(default_factory=list)
    """(W&B's step, lines of starts.jsonl, rewinds) of the last steps with marks: what had happened until then."""

    def told_until(self, logged: int) -> tuple[int, int]:
        """(lines of starts.jsonl, rewinds) that W&B knows of, whose last step is `logged`: a row with marks may be
        among those that it has lost."""
        return next(((events, rewinds) for step, events, rewinds in reversed(self.marks) if step <= logged), (0, 0))


class Client(Protocol):
    """A connection to W&B."""

    logged: int
    """The last of W&B's steps that it has; 0: none."""

    def log(self, row: Row, extra: dict[str, Any], *, step: int, is_new: bool) -> None: ...

    def alert(self, alert: Alert) -> None: ...

    def finish(self, exit_code: int) -> None: ...

    def abandon(self) -> None: ...


@dataclass
class Follower:
    """The sink of W&B."""

    run_dir: Path
    resume_step: int
    """Rows up to it were written by earlier starts."""
    history: History
    connect: Callable[[State], Client]
    first_failure: Exception | None = None
    """Why the first attempt to reach W&B failed."""
    is_complete: bool = False
    """Whether it is closed, and W&B has everything."""
    _tried: Event = field(default_factory=Event)
    _news: Event = field(default_factory=Event)
    _closing: Event = field(default_factory=Event)
    _exit_code: int = 0
    _has_warned: bool = False

    def __post_init__(self) -> None:
        self._thread = Thread(target=self._run, name="W&B", daemon=True)
        self._thread.start()

    def wait_for_first_attempt(self, timeout_s: float) -> Exception | None:
        """Why the first attempt to reach W&B has failed, or None where it has not."""
        if not self._tried.wait(timeout_s):
            return TimeoutError(f"no answer within {timeout_s:.0f} s")
        return self.first_failure

    def write(self, row: Row) -> None:
        self._news.set()

    def close(self, exit_code: int = 0) -> None:
        """Waits CLOSE_S at most for what is still to be sent."""
        self.close_within(CLOSE_S, exit_code)

    def close_within(self, wait_s: float | None, exit_code: int) -> None:
        """None: however long that takes."""
        self._exit_code = exit_code
        self._closing.set()
        self._news.set()
        self._thread.join(wait_s)
        if self._thread.is_alive():
            self._warn(f"it does not end within {wait_s:.0f} s")
            end_service()

    def give_up(self) -> None:
        """Ends without waiting for anything."""
        self._closing.set()
        if not self._tried.is_set():
            end_service()

    def _run(self) -> None:
        while not self._closing.is_set():
            client = None
            try:
                state = read_state(self.run_dir)
                client = self.connect(state)
                self._tried.set()
                self._follow(client, state)
                return
            except Exception as error:
                if not self._tried.is_set():
                    self.first_failure = error
                    self._tried.set()
                self._warn(str(error) or type(error).__name__)
                if client is not None:
                    with suppress(Exception):
                        client.abandon()
                self._closing.wait(RETRY_S)

    def _follow(self, client: Client, state: State) -> None:
        """Until the run closes and everything is sent."""
        events, rewinds, logged = self.history.events, self.history.rewinds, client.logged
        told, rewinds_told = state.told_until(logged)
        if len(rewinds) > rewinds_told:
            state.shift = max(state.shift, logged - rewinds[-1]["step"])
        extra = marks(self.history, told=told, rewinds_told=rewinds_told)
        for alert in alerts(events, told=max(told, state.alerted)):
            client.alert(alert)
        for row, extra_of_row in self._rows_after(logged - state.shift, extra):
            logged = row["step"] + state.shift
            client.log(row, extra_of_row, step=logged, is_new=row["step"] > self.resume_step)
            if extra_of_row:
                state.marks = [*state.marks[-MARKS_KEPT:], (logged, len(events), len(rewinds))]
                write_state(self.run_dir, state)
        client.finish(self._exit_code)
        state.logged, state.alerted = logged, len(events)
        write_state(self.run_dir, state)
        self.is_complete = True

    def _rows_after(self, step: int, extra: dict[str, Any]) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Each row after `step` as soon as it is in the file; the first that this start has written comes with `extra`,
        once. Ends when the run closes."""
        with (self.run_dir / FILE_NAME).open("rb") as file:
            while True:
                self._news.clear()
                is_last_look = self._closing.is_set()
                while (line := file.readline()).endswith(b"\n"):
                    if (match := STEP.match(line)) and int(match[1]) <= step:
                        continue  # without reading the row: there may be a million
                    row: Row = json.loads(line)
                    if row["step"] <= self.resume_step:
                        yield row, {}
                    else:
                        yield row, extra
                        extra = {}
                file.seek(-len(line), os.SEEK_CUR)  # half a line is being written
                if is_last_look:
                    return
                self._news.wait()

    def _warn(self, what: str) -> None:
        """Once in a process."""
        if not self._has_warned:
            self._has_warned = True
            print(
                f"WARNING: W&B: {what}. The run goes on and writes its figures to {self.run_dir / FILE_NAME}; W&B gets "
                "them as soon as it can be reached, at the latest in the next start",
                file=sys.stderr,
            )


def read_state(run_dir: Path) -> State:
    """As it was written; empty where it is missing or damaged."""
    try:
        state = State(**json.loads((run_dir / STATE_FILE).read_text(encoding="utf-8")))
        state.marks = [(step, events, rewinds) for step, events, rewinds in state.marks]
        return state
    except (OSError, ValueError, TypeError):
        return State()


def write_state(run_dir: Path, state: State) -> None:
    write_whole(run_dir / STATE_FILE, json.dumps(asdict(state)))


def end_service() -> None:
    """Ends W&B's own process, which would otherwise be waited for when this one exits."""
    import wandb

    signal_service(signal.SIGKILL)
    with suppress(Exception):
        wandb.teardown()  # finds nobody, and says nothing of it at the exit any more


def signal_service(number: signal.Signals) -> None:
    """To W&B's own process, a child of this one."""
    for process_id in children():
        with suppress(OSError):
            if Path(f"/proc/{process_id}/comm").read_text().strip() == "wandb-core":
                os.kill(process_id, number)
