"""train/checkpoint/rewind.py, on a real run; and starts that would lose what a run has done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_pipelines.base.errors import CONFIG_EXIT, ConfigError
from tests.train.metrics.wandb_history import history
from tests.train.runs import Result, read_rows, run
from tests.train.small import mesh, small_settings
from train.checkpoint.commits import committed_steps
from train.checkpoint.rewind import read_rewinds, rewind

TIMINGS = ("seconds", "tokens_per_second")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    small = small_settings(tmp_path_factory.mktemp("data"))
    saving = ["checkpoint.interval=2", "checkpoint.keep_latest_k=10"]
    return [*small, *mesh(shards=1, expert_ranks=1), *saving, "metrics.wandb=offline"]


@pytest.fixture(scope="module")
def finished(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps, with checkpoints of 2, 4 and 6."""
    run_dir = tmp_path_factory.mktemp("rewound") / "run"
    assert run([*settings, "run.stop_after_step=6"], run_dir=run_dir, num_ranks=1).exit_codes == [0]
    return run_dir


def untimed(result: Result) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in result.rows]


def test_without_a_checkpoint_of_that_step_the_others_are_named(finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"load_step=3: .* no complete checkpoint of it; there: 2, 4, 6"):
        rewind(finished, finished / "checkpoint", 3)


@pytest.mark.parametrize("setting", ["checkpoint.enable=false", "checkpoint.folder=other"])
def test_a_start_that_would_not_find_the_checkpoints_is_refused(
    settings: list[str], finished: Path, setting: str
) -> None:
    result = run([*settings, setting], run_dir=finished, num_ranks=1)
    assert result.exit_codes == [CONFIG_EXIT]
    assert setting in result.output
    assert "has checkpoints in checkpoint/" in result.output
    assert len(read_rows(finished)) == 6


def test_a_rewound_run_goes_on_from_there_and_what_came_after_is_set_aside(settings: list[str], finished: Path) -> None:
    before = read_rows(finished)
    command = [*settings, "run.stop_after_step=4", "checkpoint.load_step=2"]
    rewound = run(command, run_dir=finished, num_ranks=1)
    assert rewound.exit_codes == [0], rewound.output
    assert "rewound to step 2; what came after it, if anything, is in" in rewound.output
    assert [row["step"] for row in rewound.rows] == [1, 2, 3, 4]
    assert [row["loss"] for row in rewound.rows] == [row["loss"] for row in before[:4]]
    assert committed_steps(finished / "rewound-1") == [4, 6]
    assert read_rows(finished / "rewound-1") == before
    again = run([*command[:-2], "run.stop_after_step=6", "checkpoint.load_step=2"], run_dir=finished, num_ranks=1)
    assert again.exit_codes == [0], again.output
    assert [row["step"] for row in again.rows] == [1, 2, 3, 4, 5, 6]  # a rewind that was done is not done twice
    assert untimed(again)[:4] == untimed(rewound)


def test_a_rewound_run_is_the_same_in_wandb_and_says_where_it_went_back(finished: Path) -> None:
    rows = history(finished)
    steps = [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]  # 3 starts: to 6, from 2 to 4, to 6
    assert [row["step"] for row in rows] == steps
    assert [row["_step"] for row in rows] == list(range(1, 11))
    assert {row["_step"]: row["event/rewind"] for row in rows if "event/rewind" in row} == {7: 1}
    assert "rewound from step 6 to step 2" in rows[6]["event/text"]
    assert [row["event/start"] for row in rows if "event/start" in row] == [1, 2, 3]
    identity = (finished / "wandb_id").read_text()
    assert {path.read_text() for path in finished.glob("checkpoint/step-*/wandb_id")} == {identity}


def test_rewinds_are_found_in_their_order_under_any_name(finished: Path, tmp_path: Path) -> None:
    assert [(mark["step"], mark["last_step"]) for mark in read_rewinds(finished)] == [(2, 6)]
    for name, mark in {"kept": '{"step": 4, "last_step": 8, "time": 2}', "rewound-2": '{"step": 2, "time": 3}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rewind.json").write_text(mark)
    for name, text in {"rewound-3": "{", "rewound-4": "[]", "rewound-5": '{"step": null}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rewind.json").write_text(text)
    assert [mark["step"] for mark in read_rewinds(tmp_path)] == [4, 2]


def make_steps(run_dir: Path, *steps: int) -> Path:
    for step in steps:
        (run_dir / "checkpoint" / f"step-{step}").mkdir(parents=True)
    return run_dir / "checkpoint"


def test_a_rewind_that_was_done_stays_done_when_its_checkpoint_is_gone_with_age(tmp_path: Path) -> None:
    checkpoints = make_steps(tmp_path, 2, 4)
    assert rewind(tmp_path, checkpoints, 2)
    (checkpoints / "step-2").rename(checkpoints / "step-8")  # it went on, and keeps the newest only
    assert rewind(tmp_path, checkpoints, 2) is None
    assert committed_steps(checkpoints) == [8]


def test_the_same_command_does_not_rewind_what_it_has_trained_since(tmp_path: Path) -> None:
    checkpoints = make_steps(tmp_path, 2, 4)
    assert rewind(tmp_path, checkpoints, 4)  # nothing comes after it yet
    make_steps(tmp_path, 6)
    assert rewind(tmp_path, checkpoints, 4) is None
    assert rewind(tmp_path, checkpoints, 2)
    make_steps(tmp_path, 4)
    assert rewind(tmp_path, checkpoints, 4)  # the step that it is at
    make_steps(tmp_path, 6)
    assert rewind(tmp_path, checkpoints, 4) is None
    assert committed_steps(checkpoints) == [2, 4, 6]


def test_a_rewind_that_was_cut_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = make_steps(tmp_path, 2, 4, 6)
    rename = os.rename

    def only_once(source: Path, target: Path) -> None:
        if target.exists() or source.name != "step-4":
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", only_once)
    with pytest.raises(OSError, match="the disk is gone"):
        rewind(tmp_path, checkpoints, 2)
    monkeypatch.undo()
    assert rewind(tmp_path, checkpoints, 2)
    assert committed_steps(checkpoints) == [2]
    assert [committed_steps(tmp_path / f"rewound-{k}") for k in (1, 2)] == [[4], [6]]


def test_a_rewind_takes_no_name_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "rewound-2").mkdir()
    (tmp_path / "rewound-old").mkdir()
    assert (rewind(tmp_path, make_steps(tmp_path, 2, 4), 2) or "").endswith("rewound-3")
