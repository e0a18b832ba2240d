"""The real program on ranks of which one stops or sleeps: it ends, names that rank, and leaves the stacks of all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from data_pipelines.base.errors import STALL_EXIT
from tests.train.runs import Hook, Kill, Result, run
from tests.train.small import mesh, small_settings
from train.process.starts import read_events

LATE_STEP, SLOW_STEP = 2, 3
LATE_S, FOREVER_S = 0.5, 600


def sleep_in_user_code(seconds: float) -> None:
    time.sleep(seconds)


def rank_1_sleeps() -> None:
    """Somebody's own code in the loop waits for something that does not come."""
    from train.loop.trainer import Trainer

    fetch = Trainer._fetch

    def fetch_slowly(self, step, data_iterator):
        if os.environ["RANK"] == "1":
            sleep_in_user_code({LATE_STEP: LATE_S, SLOW_STEP: FOREVER_S}.get(step.number, 0))
        return fetch(self, step, data_iterator)

    Trainer._fetch = fetch_slowly  # type: ignore[method-assign]


def rank_1_saves_slowly() -> None:
    """A disk that does not answer."""
    from train.checkpoint.save import Saver

    write_own = Saver.write_own

    def write_slowly(self, states, folder):
        if os.environ["RANK"] == "1":
            sleep_in_user_code(FOREVER_S)
        return write_own(self, states, folder)

    Saver.write_own = write_slowly  # type: ignore[method-assign]


class Case(NamedTuple):
    culprit: int
    words: str
    kill: Kill | None = None
    hook: Hook | None = None
    limit_s: float = 3


LONG = "a rank sleeps, with a limit of 20 s"
CASES = {
    "a rank is stopped": Case(1, "says nothing any more", kill=Kill(1, step=SLOW_STEP, number=signal.SIGSTOP)),
    "the rank with the store is stopped": Case(
        0, "says nothing any more", kill=Kill(0, step=SLOW_STEP, number=signal.SIGSTOP)
    ),
    "a rank sleeps in user code": Case(1, "has come less far than the others: it is in data", hook=rank_1_sleeps),
    LONG: Case(1, "has come less far", hook=rank_1_sleeps, limit_s=20),
    "a rank does not come to an end of saving": Case(1, "has come less far", hook=rank_1_saves_slowly),
}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.battery] * (name == LONG)) for name in CASES]
)
def stalled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Result, Path]:
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp("stalled")
    command = [*small_settings(folder), *mesh(shards=2, expert_ranks=2), *limits(case)]
    result = run(command, run_dir=folder / "run", num_ranks=2, kill=case.kill, hook=case.hook)
    return case, result, folder / "run"


def limits(case: Case) -> list[str]:
    return [f"watchdog.stall_after_s={case.limit_s}", f"watchdog.save_after_s={case.limit_s}"]


def test_the_run_ends_and_names_the_culprit(stalled: tuple[Case, Result, Path]) -> None:
    case, result, run_dir = stalled
    others = [code for rank, code in enumerate(result.exit_codes) if rank != case.culprit]
    assert others == [STALL_EXIT], result.output
    (report,) = run_dir.glob("stalls/*/report.txt")
    for text in (result.output, report.read_text()):
        assert f"rank {case.culprit} on " in text
        assert f"rank {1 - case.culprit} on" not in text
        assert case.words in text


def test_the_stacks_of_all_ranks_are_there(stalled: tuple[Case, Result, Path]) -> None:
    case, result, run_dir = stalled
    (folder,) = run_dir.glob("stalls/*")
    stacks = [(folder / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert all("trainer.py" in stack for stack in stacks), result.output
    assert ("in sleep_in_user_code" in stacks[case.culprit]) == (case.hook is not None)


def test_a_rank_that_is_only_late_is_named_in_the_row(stalled: tuple[Case, Result, Path]) -> None:
    case, result, _ = stalled
    if case.hook is rank_1_sleeps:
        late = result.rows[LATE_STEP - 1]
        assert late["slowest_rank"] == 1
        assert 0.5 < late["slowest_excess"] <= 1  # of two ranks: at most twice their mean


def test_the_stall_is_in_the_record_of_starts(stalled: tuple[Case, Result, Path]) -> None:
    case, _, run_dir = stalled
    stall = next(event for event in read_events(run_dir) if event["event"] == "stall")
    assert stall["suspects"] == [os.uname().nodename]
    assert stall["step"] >= SLOW_STEP
    if case.limit_s == 20:
        assert 20 <= stall["time"] - (run_dir / "metrics.jsonl").stat().st_mtime <= 30
    assert case.words in stall["reason"]
