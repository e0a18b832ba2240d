"""train/process/starts.py: what stands there after a start that ended well, and after others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from data_pipelines.base.errors import CONFIG_EXIT, REQUEUE_EXIT, ConfigError
from train.checkpoint.commits import newest_step
from train.process.starts import FILE_NAME, append_event, read_events, recorded
from train.process.stop import StopWish


def commit(run_dir: Path, step: int) -> None:
    (run_dir / f"checkpoint/step-{step}").mkdir(parents=True)


def start(run_dir: Path):  # type: ignore[no-untyped-def]
    last_step = partial(newest_step, run_dir / "checkpoint")
    return recorded(run_dir, ranks=4, last_step=last_step, exit_codes={ConfigError: CONFIG_EXIT}, wish=StopWish())


def test_a_start_and_its_end_say_from_which_step_to_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    commit(tmp_path, 4)
    with start(tmp_path):
        commit(tmp_path, 8)
    first, last = read_events(tmp_path)
    assert (first["event"], first["step"], first["ranks"]) == ("start", 4, 4)
    assert (first["job"], first["restart"], first["nodes"]) == ("123", 2, None)
    assert (last["event"], last["step"], last["exit_code"], last["reason"]) == ("end", 8, 0, "reached its last step")
    assert first["time"] <= last["time"]


def test_an_error_is_the_reason_with_the_exit_code_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), start(tmp_path):
        raise ConfigError(["data.dir: not there"])
    with pytest.raises(ZeroDivisionError), start(tmp_path):
        raise ZeroDivisionError("of ours")
    ends = [(event["exit_code"], event["reason"]) for event in read_events(tmp_path) if event["event"] == "end"]
    assert ends == [(CONFIG_EXIT, "ConfigError: data.dir: not there"), (1, "ZeroDivisionError: of ours")]


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with start(tmp_path):
        pass
    assert read_events(tmp_path) == []


def test_a_line_that_a_killed_writer_left_torn_is_passed_over(tmp_path: Path) -> None:
    append_event(tmp_path, "start", step=0)
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"event": "end", "ti\n[1]\n')
    append_event(tmp_path, "start", step=4)
    assert [event["step"] for event in read_events(tmp_path)] == [0, 4]


def test_a_line_after_a_torn_one_is_read_and_what_lacks_a_key_is_not(tmp_path: Path) -> None:
    (tmp_path / "starts.jsonl").write_text('{"event": "submit", "jobs": null}\n{"event": "end"}\n{"event": "sta')
    append_event(tmp_path, "submit", jobs=["7"])
    assert [event["jobs"] for event in read_events(tmp_path)] == [["7"]]


def test_a_start_that_ends_at_once_has_an_end(tmp_path: Path) -> None:
    wish = StopWish()
    with recorded(tmp_path, ranks=1, last_step=lambda: 0, exit_codes={}, wish=wish):
        wish.at_end("asked to stop by SIGUSR1, with nothing to save yet")
        *_, end = read_events(tmp_path)
        assert (end["event"], end["exit_code"], end["reason"]) == (
            "end",
            REQUEUE_EXIT,
            "asked to stop by SIGUSR1, with nothing to save yet",
        )
    wish.at_end("too late")
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "end", "end"]


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "stall", "time": 1, "suspects": [{"a": 1}]}',
        '{"event": "stall", "time": 1, "suspects": ["n1; rm -rf /"]}',
        '{"event": "submit", "jobs": ["7", 8, null]}',
        "[" * 100_000,
    ],
)
def test_a_line_that_no_start_has_written_is_none(line: str, tmp_path: Path) -> None:
    append_event(tmp_path, "submit", jobs=["7"])
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write(line + "\n")
    assert [event["event"] for event in read_events(tmp_path)] == ["submit"]
