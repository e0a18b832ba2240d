"""launch/local.py: the order of its phases and, above all, how it stops."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from data_pipelines.base.command import overrides_parser, parse_overrides
from data_pipelines.base.errors import RESUME_ADVICE
from launch import local
from train.config.sweep import open_jobs

ROOT = Path(__file__).parents[2]


class Start(NamedTuple):
    line: str
    exit_code: int
    stderr: str


def test_the_smoke_experiment_is_the_default_and_can_be_replaced() -> None:
    assert local.with_experiment(["run.name=a"]) == ["experiment=smoke", "run.name=a"]
    assert local.with_experiment(["experiment=other"]) == ["experiment=other"]


def test_a_bad_configuration_exits_2_with_all_problems_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert local.main([f"run.dir={run_dir}", "training.stepz=1", "optimizer.muon.lrr=1"]) == 2
    message = capsys.readouterr().err
    assert "training.stepz" in message
    assert "optimizer.muon.lrr" in message
    assert not run_dir.exists()


def test_a_glob_that_matched_nothing_can_be_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["experiment=smoke", "data=files"]
    overrides += [f"run.dir={tmp_path}/run", f"data.dir={tmp_path}/data"]
    assert local.main([*overrides, f"data.sources.web.glob={tmp_path}/*.txxt"]) == 2
    assert "txxt" in capsys.readouterr().err
    local.check([*overrides, f"data.sources.web.glob={tmp_path}/*.txt"])
    assert f"glob: {tmp_path}/*.txt\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_help_says_what_there_is_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        local.main(["data=files", "--help"])
    assert exit_.value.code == 0
    assert re.search(r"parallelism= .*single", capsys.readouterr().out)


EXAMPLES = re.findall(r"^ +\./launch/local\.sh(.*?)(?:  .*)?$", local.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_are_configurations(
    example: str, own_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_experiment)  # where no runs/ lies
    arguments = shlex.split(example.replace("~/mine", str(own_experiment)))
    args = parse_overrides(overrides_parser("local.sh", description=None, multirun="..."), arguments)
    assert open_jobs(local.with_experiment(args.overrides))


def test_the_configuration_is_shown_and_nothing_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert local.main(["--cfg", "job", "run.name=shown"]) == 0
    assert capsys.readouterr().out.startswith("run:\n  name: shown\n")


def test_an_unknown_option_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        local.main(["--gpus=4", "data=files"])
    assert "unrecognized arguments: --gpus=4" in capsys.readouterr().err


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """The real program, interrupted by Ctrl-C while it and the server of its ranks import torch."""
    folder = tmp_path_factory.mktemp("start")
    command = [sys.executable, "-m", "launch.local", f"run.dir={folder}/run"]
    with (
        (folder / "stderr").open("w") as file,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to both
        try:
            exit_code = process.wait(timeout=20)
            time.sleep(1.0)  # for the traceback of the server, if it had one to print
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Start(line=line, exit_code=exit_code, stderr=(folder / "stderr").read_text())


def test_the_first_line_comes_before_the_engine(start: Start) -> None:
    assert start.line.startswith("== configuration: experiment=smoke")


def test_ctrl_c_gives_one_message(start: Start) -> None:
    assert start.exit_code == 128 + signal.SIGINT
    assert start.stderr == f"\nerror: stopped by SIGINT. {RESUME_ADVICE}\n"


class TestPhases:
    """main with its phases replaced by notes of their names."""

    @pytest.fixture(autouse=True)
    def notes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        notes: list[str] = []
        run = SimpleNamespace(run_dir=tmp_path / "run", world_size=2)
        monkeypatch.setattr(local, "check", lambda overrides: run)
        monkeypatch.setattr(local, "prepare_data", lambda run: notes.append("data"))
        monkeypatch.setattr(local, "launch_ranks", lambda main, arguments, **_: notes.append("train"))
        monkeypatch.setattr(local, "run_warm", lambda main, arguments: notes.append("export") or 0)
        monkeypatch.setattr(local, "report", lambda run: notes.append("report"))
        return notes

    def test_a_run_ends_with_the_line_that_loads_its_model(
        self, notes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert local.main([]) == 0
        assert notes == ["data", "train", "export", "report"]
        line = capsys.readouterr().out.splitlines()[-1]
        assert f'pipeline("text-generation", "{tmp_path}/run/hf")' in line

    def test_a_failed_training_is_neither_exported_nor_reported(
        self, notes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(main: object, arguments: list[str], **_: object) -> None:
            raise local.Stopped("loss is not finite", exit_code=3)

        monkeypatch.setattr(local, "launch_ranks", fail)
        assert local.main([]) == 3
        assert notes == ["data"]
        assert "error: loss is not finite" in capsys.readouterr().err

    def test_a_sweep_goes_through_all_phases_with_each_run(
        self, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(local, "warm_up", lambda: None)
        arguments = ["-m", f"run.dir={tmp_path}/${{run.name}}", "balance.speed=0.5,0.25"]
        assert local.main(arguments) == 0
        assert notes == ["data", "train", "export", "report"] * 2
        assert f"{tmp_path}/smoke-speed-0.25" in capsys.readouterr().out.splitlines()[-1]

    def test_a_failed_export_keeps_its_exit_code(self, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "run_warm", lambda main, arguments: 5)
        assert local.main([]) == 5
        assert notes == ["data", "train"]
