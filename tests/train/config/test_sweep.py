"""train/config/sweep.py: the runs of a sweep, their names, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from train.config.owner import owned
from train.config.rundir import open_run_dir
from train.config.sweep import Job, open_jobs, run_jobs


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no runs/ lies."""
    monkeypatch.chdir(tmp_path)


SMOKE = ["experiment=smoke", "parallelism=single"]


def names(*overrides: str) -> list[str]:
    return [job.run.run.name for job in open_jobs([*SMOKE, *overrides])]


def test_a_run_is_named_after_what_is_special_to_it() -> None:
    assert names("optimizer.muon.lr=1e-2,2e-2") == ["smoke-lr-0.01", "smoke-lr-0.02"]
    assert names("optimizer.muon.lr=1e-2,2e-2", "optimizer.adamw.lr=1e-3") == ["smoke-lr-0.01", "smoke-lr-0.02"]
    assert names("optimizer.muon.lr=1,2", "optimizer.adamw.lr=3,4", "run.name=x")[0] == "x-muon.lr-1-adamw.lr-3"
    assert names("run.name=a,b") == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ("a/b,a_b,a-b", ["a_b", "a_b-2", "a-b"]),
        ('"a b/*","ü=x","/"', ["a_b", "ü_x", "empty"]),
        (f"{300 * 'a'},{300 * 'a'}b", [40 * "a", 40 * "a" + "-2"]),
    ],
)
def test_any_value_gives_a_name_of_its_own(values: str, ends: list[str]) -> None:
    data = ["data=files", "data.sources.w.glob=x"]
    assert names(*data, f"data.tokenizer={values}") == [f"smoke-tokenizer-{end}" for end in ends]


def test_a_run_lies_in_a_folder_of_its_own_and_keeps_its_values(tmp_path: Path) -> None:
    jobs = open_jobs([*SMOKE, f"run.dir={tmp_path}/${{run.name}}", "balance.speed=0.5,0.25"])
    assert [job.run.run_dir.name for job in jobs] == ["smoke-speed-0.5", "smoke-speed-0.25"]
    assert [job.run.balance.speed for job in jobs] == [0.5, 0.25]
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_folder_are_refused_with_the_form_that_works(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        open_jobs([*SMOKE, f"run.dir={tmp_path}", "balance.speed=0.5,0.25"])
    assert error.value.problems == [
        f"run.dir={tmp_path}: 2 runs of the sweep would share it; leave run.dir out, or write "
        f"'run.dir=\"{tmp_path}/${{run.name}}\"'"
    ]


def test_two_spellings_of_a_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="3 runs of the sweep would share it"):
        open_jobs([*SMOKE, f"run.dir={tmp_path}/a,{tmp_path}/x/../a,{tmp_path}/link/a"])


def test_a_folder_of_another_run_is_found_before_any_starts(tmp_path: Path) -> None:
    (first, last) = sweep_of(tmp_path, "0.5", "0.25")
    open_run_dir(last.run)
    (last.run.run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError) as error:
        sweep_of(tmp_path, "0.5", "0.25", overrides=["debug.seed=1"])
    (problem,) = error.value.problems
    assert problem.startswith("debug.seed: is 1 now")
    assert problem.endswith("(with speed=0.25)")
    assert not first.run.run_dir.exists()


def test_a_step_to_go_back_to_is_looked_for_before_any_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"load_step=2: .*/b/checkpoint has no complete checkpoint"):
        open_jobs([*SMOKE, f"run.dir={tmp_path}/a,{tmp_path}/b", "checkpoint.load_step=2"])


def test_a_folder_in_which_another_job_trains_is_found_before_any_starts(tmp_path: Path) -> None:
    jobs = sweep_of(tmp_path, "0.5", "0.25")
    with owned(jobs[1].run.run_dir), pytest.raises(ConfigError, match=r"speed-0\.25: process \d+ on"):
        run_jobs(jobs, lambda job: pytest.fail("started"))


def test_every_problem_of_every_run_is_said_once_before_any_starts() -> None:
    with pytest.raises(ConfigError) as error:
        open_jobs([*SMOKE, "training.stepz=1", "model.num_experts=8,-1"])
    problems = error.value.problems
    assert len([problem for problem in problems if "training.stepz" in problem]) == 1
    assert any("num_experts" in problem and "(with num_experts=-1)" in problem for problem in problems)


def sweep_of(tmp_path: Path, *speeds: str, overrides: Sequence[str] = ()) -> list[Job]:
    return open_jobs([*SMOKE, f"run.dir={tmp_path}/${{run.name}}", f"balance.speed={','.join(speeds)}", *overrides])


def test_a_run_that_fails_does_not_stop_the_others_and_its_exit_code_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(job: Job) -> int:
        if job.run.balance.speed == 0.25:
            return 3
        job.run.run_dir.mkdir()
        (job.run.run_dir / "metrics.jsonl").write_text(json.dumps({"step": 7, "loss": 1.5}) + "\n")
        return 0

    assert run_jobs(sweep_of(tmp_path, "0.5", "0.25", "0.125"), start) == 3
    table = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert [line.split()[:4] for line in table[1:]] == [
        ["speed=0.5", "7", "1.5000", "0"],
        ["speed=0.25", "-", "-", "3"],
        ["speed=0.125", "7", "1.5000", "0"],
    ]


def test_a_run_that_is_stopped_by_a_signal_ends_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_jobs(sweep_of(tmp_path, "0.5", "0.25"), lambda job: 130) == 130
    assert "not started" in capsys.readouterr().out.splitlines()[-1]
