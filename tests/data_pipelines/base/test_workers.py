from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from data_pipelines.base.errors import RunError
from data_pipelines.base.workers import run_in_workers


def nothing() -> None:
    pass


def set_up() -> None:
    os.environ["SET_UP"] = "yes"


def report(number: int) -> tuple[int, str, int]:
    return number, os.environ["SET_UP"], os.getpid()


def fail_at_2(number: int) -> int:
    if number == 2:
        raise ValueError("two is bad")
    return number


def die_at_2(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60.0 if number > 2 else 0)
    return number


def interrupt_all(folder: str) -> None:
    """Ctrl-C as a terminal sends it, to this process and to the one that waits for it."""
    os.kill(os.getpid(), signal.SIGINT)
    Path(folder, "still_here").write_text("")
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60.0)


def hang(folder: str) -> None:
    Path(folder, str(os.getpid())).write_text("")
    time.sleep(120.0)


def hang_in_workers(folder: str) -> None:
    run_in_workers(hang, {"a": folder, "b": folder}, print, workers=2, start=nothing)


def test_every_item_is_done_once_in_processes_that_were_set_up() -> None:
    results: dict[str, tuple[int, str, int]] = {}
    run_in_workers(report, {str(k): k for k in range(5)}, results.__setitem__, workers=2, start=set_up)
    assert {name: result[:2] for name, result in results.items()} == {str(k): (k, "yes") for k in range(5)}
    assert os.getpid() not in {result[2] for result in results.values()}


def test_what_a_job_raises_arrives_and_results_before_it_are_kept() -> None:
    done: dict[str, int] = {}
    with pytest.raises(ValueError, match="two is bad"):
        run_in_workers(fail_at_2, {str(k): k for k in range(5)}, done.__setitem__, workers=1, start=nothing)
    assert done == {"0": 0, "1": 1}
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_an_error_at_once_that_names_what_was_at_work() -> None:
    done: dict[str, int] = {}
    items = {"fine": 0, "deadly": 2, "slow": 3}
    began = time.monotonic()
    with pytest.raises(RunError, match=r"ended without an answer, at work on .*deadly.*take fewer workers") as error:
        run_in_workers(die_at_2, items, done.__setitem__, workers=2, start=nothing)
    assert time.monotonic() - began < 30.0  # the slow one would take 60
    assert "fine" not in str(error.value) or "fine" not in done
    assert not multiprocessing.active_children()


def test_ctrl_c_reaches_the_parent_only_and_ends_the_workers(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_in_workers(interrupt_all, {"a": str(tmp_path)}, print, workers=1, start=nothing)
    assert (tmp_path / "still_here").exists()
    assert not multiprocessing.active_children()


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """And let go of its pipes, or whoever reads them would wait for ever."""
    parent = multiprocessing.get_context("spawn").Process(target=hang_in_workers, args=(str(tmp_path),))
    parent.start()
    deadline = time.monotonic() + 60.0
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 10.0
    while (alive := [pid for pid in workers if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert len(workers) == 2
    assert not alive


def is_alive(pid: int) -> bool:
    """One that has ended and waits to be asked for its exit code is not."""
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"
