"""train/metrics/follower.py: every row once, whatever W&B does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from train.metrics import follower as module
from train.metrics.events import Alert, History
from train.metrics.follower import Follower, State, read_state, write_state
from train.metrics.jsonl import JsonLines
from train.metrics.row import Row


@dataclass
class Recorded:
    """Stands for W&B: what is in it outlives its clients, which may fail."""

    logged: int = 0
    steps: list[tuple[int, int]] = field(default_factory=list)
    """(W&B's step, the run's), in the order in which they came."""
    extras: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The run's step -> marks."""
    alerts: list[Alert] = field(default_factory=list)
    exit_code: int | None = None
    is_down: bool = False
    drops_at: set[int] = field(default_factory=set)
    """W&B's steps at which the connection is lost, once."""
    connections: int = 0

    def connect(self, state: State) -> Recorded:
        self.connections += 1
        if self.is_down:
            raise OSError("no network")
        return self

    def log(self, row: Row, extra: dict[str, Any], *, step: int, is_new: bool) -> None:
        if step in self.drops_at:
            self.drops_at.remove(step)
            raise OSError("connection lost")
        self.steps.append((step, row["step"]))
        self.logged = step
        if extra:
            self.extras[row["step"]] = extra

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code

    def abandon(self) -> None:
        pass


START = {"event": "start", "time": 0.0, "step": 0}


def run(wandb: Recorded, run_dir: Path, *steps: int, history: History | None = None, pause_s: float = 0.0) -> None:
    """A start that takes these steps."""
    file = JsonLines(run_dir / "metrics.jsonl", resume_step=steps[0] - 1)
    follower = Follower(run_dir, steps[0] - 1, history or History(), wandb.connect)
    for step in steps:
        row = cast(Row, {"step": step, "tokens": 10 * step})
        file.write(row)
        follower.write(row)
        time.sleep(pause_s)
    file.close()
    follower.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(module, "CLOSE_S", 5.0)


def test_rows_arrive_in_their_order_and_the_run_is_finished(tmp_path: Path) -> None:
    wandb = Recorded()
    run(wandb, tmp_path, 1, 2, 3)
    assert wandb.steps == [(1, 1), (2, 2), (3, 3)]
    assert wandb.exit_code == 0
    assert read_state(tmp_path).logged == 3


def test_steps_that_are_taken_again_are_not_sent_again(tmp_path: Path) -> None:
    wandb = Recorded()
    run(wandb, tmp_path, *range(1, 11))
    run(wandb, tmp_path, *range(8, 13))
    assert [step for step, _ in wandb.steps] == list(range(1, 13))


def test_rows_that_a_killed_start_did_not_send_are_sent_by_the_next(tmp_path: Path) -> None:
    wandb = Recorded()
    run(wandb, tmp_path, *range(1, 8))
    wandb.steps, wandb.logged = wandb.steps[:4], 4
    run(wandb, tmp_path, 8, 9)
    assert [step for step, _ in wandb.steps] == list(range(1, 10))


def test_a_connection_that_is_lost_is_made_again_and_nothing_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = Recorded()

    wandb.drops_at = {4, 9}
    run(wandb, tmp_path, *range(1, 13), pause_s=0.02)
    assert [step for step, _ in wandb.steps] == list(range(1, 13))
    assert wandb.connections == 3
    assert capsys.readouterr().err.count("WARNING: W&B: connection lost. The run goes on") == 1


def test_a_rewound_run_goes_on_behind_what_it_set_aside(tmp_path: Path) -> None:
    wandb, rewound = Recorded(), History(rewinds=[{"step": 4, "last_step": 8}])
    run(wandb, tmp_path, *range(1, 9))
    run(wandb, tmp_path, 5, 6, history=rewound)
    run(wandb, tmp_path, 7, history=rewound)
    assert wandb.steps[8:] == [(9, 5), (10, 6), (11, 7)]
    assert {step: extra["event/rewind"] for step, extra in wandb.extras.items()} == {5: 1}
    twice = History(rewinds=[*rewound.rewinds, {"step": 5, "last_step": 7}])
    run(wandb, tmp_path, 6, 7, history=twice)
    assert wandb.steps[11:] == [(12, 6), (13, 7)]


def test_marks_come_with_the_first_new_row_and_once(tmp_path: Path) -> None:
    wandb = Recorded()
    run(wandb, tmp_path, 1, 2, 3, history=History([START]))
    run(wandb, tmp_path, 3, 4, 5, history=History([START, {**START, "restart": 1, "step": 2}]))
    assert {step: extra["event/start"] for step, extra in wandb.extras.items()} == {1: 1, 4: 2}
    assert wandb.extras[4]["event/requeue"] == 1


def test_marks_that_were_lost_with_a_killed_start_come_again(tmp_path: Path) -> None:
    wandb = Recorded()
    run(wandb, tmp_path, 1, 2, history=History([START]))
    run(wandb, tmp_path, 3, 4, history=History([START, START]))
    wandb.steps, wandb.logged = wandb.steps[:2], 2
    run(wandb, tmp_path, 3, 4, 5, history=History([START, START, START]))
    assert [step for step, _ in wandb.steps] == [1, 2, 3, 4, 5]
    assert wandb.extras[3] == {"event/start": 3, "event/text": "start (step 0); start (step 0)"}


def test_stalls_since_the_last_start_are_alerts(tmp_path: Path) -> None:
    wandb = Recorded()
    stall = {"event": "stall", "time": 0.0, "step": 1, "suspects": ["n2"], "reason": "rank 1 does not answer"}
    run(wandb, tmp_path, 1, history=History([START]))
    run(wandb, tmp_path, 2, history=History([START, stall, START]))
    run(wandb, tmp_path, 3, history=History([START, stall, START, START]))
    assert [alert.title for alert in wandb.alerts] == ["stall"]


class Hanging(Recorded):
    """A client whose log never comes back until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def log(self, row: Row, extra: dict[str, Any], *, step: int, is_new: bool) -> None:
        self.release.wait(10)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    wandb = Hanging()
    yield wandb
    wandb.release.set()


def test_a_client_that_hangs_holds_up_neither_a_step_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: Hanging, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.2)
    started = time.monotonic()
    run(hanging, tmp_path, *range(1, 100))
    assert time.monotonic() - started < 9  # its first log returns after 10
    assert "does not end within" in capsys.readouterr().err


def test_the_first_step_of_a_run_learns_why_wandb_did_not_start(tmp_path: Path) -> None:
    JsonLines(tmp_path / "metrics.jsonl", resume_step=0).close()
    follower = Follower(tmp_path, 0, History(), Recorded(is_down=True).connect)
    assert str(follower.wait_for_first_attempt(5)) == "no network"
    follower.close()


def test_a_damaged_state_is_as_none(tmp_path: Path) -> None:
    assert read_state(tmp_path) == State()
    for text in ("", "{", "[1]", '{"other": 1}'):
        (tmp_path / "wandb_state.json").write_text(text)
        assert read_state(tmp_path) == State()
    write_state(tmp_path, State(logged=3, shift=1))
    assert json.loads((tmp_path / "wandb_state.json").read_text())["logged"] == 3
