"""train/config/rundir.py: a second start on a folder resumes the run in it, or is refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_pipelines.base.errors import ConfigError
from train.config.rundir import changes, open_run_dir

SETTINGS: dict[str, Any] = {
    "run": {"name": "a", "stop_after_step": None},
    "model": {"name": "tiny", "dim": 64},
    "training": {"seq_len": 256, "local_batch_size": 8},
    "parallelism": {"data_parallel_shard_degree": 2},
    "debug": {"seed": 0, "deterministic": False},
    "data": {"dir": "data", "mix": {"general": {"code": 0.5}}},
}


def make_run(run_dir: Path, **changed: Any) -> Any:
    """SETTINGS with other values: section__key=value."""
    settings = deepcopy(SETTINGS)
    for name, value in changed.items():
        section, _, key = name.partition("__")
        settings[section][key] = value
    return SimpleNamespace(run_dir=run_dir, settings=settings)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The folder of a run that has made a step."""
    folder = tmp_path / "deep" / "run"
    open_run_dir(make_run(folder))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    return folder


def stored(run_dir: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))


def test_the_folder_says_what_the_run_is(tmp_path: Path) -> None:
    open_run_dir(make_run(tmp_path / "run"))
    assert stored(tmp_path / "run") == SETTINGS
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_the_same_configuration_may_start_again(run_dir: Path) -> None:
    open_run_dir(make_run(run_dir))


def test_a_run_that_has_made_no_step_may_be_corrected(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").write_text("")  # the run was started, and stopped in its first step
    corrected = make_run(run_dir, model__dim=128)
    open_run_dir(corrected)
    assert stored(run_dir) == corrected.settings


def test_a_checkpoint_binds_without_rows_too(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "checkpoint" / "step-40").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"model\.dim"):
        open_run_dir(make_run(run_dir, model__dim=128))


@pytest.mark.parametrize(
    ("changed", "path", "was", "now"),
    [
        ({"model__dim": 128}, "model.dim", "64", "128"),
        ({"training__seq_len": 512}, "training.seq_len", "256", "512"),
        ({"debug__seed": 1}, "debug.seed", "0", "1"),  # though debug.* is free
        ({"data__mix": {"general": {"code": 0.9}}}, "data.mix.general.code", "0.5", "0.9"),
        ({"data__mix": None}, "data.mix", "{'general'", "None"),
    ],
)
def test_another_configuration_is_refused_and_named(
    run_dir: Path, changed: dict[str, Any], path: str, was: str, now: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        open_run_dir(make_run(run_dir, **changed))
    (problem,) = refusal.value.problems
    assert problem.startswith(f"{path}: is {now} now")
    assert f"was started with {was}" in problem
    assert "choose another run.dir" in problem
    assert stored(run_dir) == SETTINGS


def test_every_difference_is_named_at_once(run_dir: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        open_run_dir(make_run(run_dir, model__dim=128, training__seq_len=512, run__name="b"))
    assert [problem.split(":")[0] for problem in refusal.value.problems] == ["model.dim", "training.seq_len"]


def test_where_and_how_it_runs_may_change(run_dir: Path) -> None:
    run = make_run(
        run_dir,
        run__stop_after_step=5,
        parallelism__data_parallel_shard_degree=4,
        training__local_batch_size=2,
        debug__deterministic=True,
        data__dir="/elsewhere",
    )
    open_run_dir(run)
    assert stored(run_dir) == run.settings  # the folder follows


def test_a_setting_that_appears_or_vanishes_counts_as_none() -> None:
    assert changes({"a": {"b": 1}}, {"a": {"c": 2}}) == [("a.b", 1, None), ("a.c", None, 2)]
    assert changes({"a": None}, {}) == []


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(ConfigError, match=r"run\.dir=.*file/run: cannot be written .*choose another folder"):
        open_run_dir(make_run(file / "run"))
    assert file.read_text() == "not a folder"
