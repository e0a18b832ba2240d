"""train/__main__.py: its command line. What it does with it is in test_runs.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from train import __main__ as program
from train.config.start import checked_run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no runs/ lies."""
    monkeypatch.chdir(tmp_path)


EXAMPLES = re.findall(r" -m train (.*?)(?:  .*)?$", program.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize("line", ["--check experiment=smoke data=files", "experiment=smoke --check data=files"])
def test_an_option_may_stand_anywhere_among_the_overrides(line: str) -> None:
    args = program.parse(line.split())
    assert args.check
    assert args.overrides == ["experiment=smoke", "data=files"]


def test_check_says_what_follows_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["experiment=smoke", "--check", f"run.dir={tmp_path}/run"]) == 0
    assert re.search(r"mesh +4 ranks", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("version", "is_noted"), [((2, 13), True), ((2, 14), False)])
def test_check_says_what_this_torch_could_not_run(
    version: tuple[int, int], is_noted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.config.rules.machine.TORCH", version)
    assert program.main(["experiment=trinity_nano", "--check"]) == 0
    note = re.search(r"note +compile.enable: torch .* install 2.14 or later", capsys.readouterr().out)
    assert bool(note) is is_noted


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_are_configurations(example: str, own_experiment: Path) -> None:
    from train.config.sweep import open_jobs

    assert open_jobs(program.parse(shlex.split(example.replace("~/mine", str(own_experiment)))).overrides)


def test_the_help_says_what_there_is_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert re.search(r"balance= +linear, none, sign, smebu", capsys.readouterr().out)


def test_the_configuration_is_shown_in_full_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    from omegaconf import OmegaConf

    from data_pipelines.settings.compose import compose
    from train.config.check import check

    assert program.main(["experiment=smoke", "--cfg", "job"]) == 0
    shown = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    run = check(compose(["experiment=smoke"]))
    assert shown == run.settings
    assert shown["training"]["gc_freq"] == run.training.gc_freq  # type: ignore[index,call-overload]  (a default)


def test_a_configuration_that_cannot_run_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["experiment=smoke", "--cfg", "job", "training.stepz=1"]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert "training.stepz" in shown.err


def test_the_files_of_a_configuration_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["experiment=smoke", "--info", "defaults"]) == 0
    assert "parallelism/hsdp_2x2_ep2" in capsys.readouterr().out


def test_several_values_need_multirun_and_multirun_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    values = ["experiment=smoke", "parallelism=single", "optimizer.muon.lr=1e-2,2e-2", "--check"]
    assert program.main(values) == 2
    assert "--multirun" in capsys.readouterr().err
    assert program.main([*values, "--multirun"]) == 0
    assert re.findall(r"^== (.*)", capsys.readouterr().out, re.MULTILINE) == ["lr=0.01", "lr=0.02"]


def test_a_sweep_of_several_ranks_is_sent_to_the_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["-m", "experiment=smoke", "parallelism=single,hsdp_2x2_ep2"]) == 2
    error = capsys.readouterr().err
    assert "but parallelism=hsdp_2x2_ep2 needs more" in error
    assert "./launch/local.sh --multirun" in error


def test_a_rank_of_torchrun_starts_no_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert program.main(["-m", "experiment=smoke", "parallelism=single", "debug.seed=1,2"]) == 2
    assert "each rank of torchrun would start every run" in capsys.readouterr().err


def test_a_folder_of_another_run_is_found_by_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from train.config.rundir import open_run_dir
    from train.config.start import checked_run

    open_run_dir(checked_run(["experiment=smoke"]))
    (tmp_path / "runs/smoke/metrics.jsonl").write_text('{"step": 1}\n')
    assert program.main(["experiment=smoke", "--check", "debug.seed=1"]) == 2
    assert "debug.seed: is 1 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", ["run.name=", "run.dir=", "run.name='  '", "run.name='a/b'", "run.name=..", "run.dir='~/x'"]
)
def test_a_place_that_an_unset_variable_leaves_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["experiment=smoke", "--check", wrong]) == 2
    assert f"error: {wrong.partition('=')[0]} must " in capsys.readouterr().err


def test_a_list_in_place_of_a_text_is_answered_with_how_to_quote_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["experiment=smoke", "--check", "run.name=[ab]"]) == 2
    assert "quoted twice" in capsys.readouterr().err


def test_showing_and_sweeping_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["-m", "--cfg", "job", "experiment=smoke"])
    assert "leave out --multirun" in capsys.readouterr().err


def test_a_start_says_whether_there_is_anything_left_to_train(tmp_path: Path) -> None:
    (tmp_path / "checkpoint/step-6").mkdir(parents=True)
    for last, said in {
        4: "nothing to train: step 6 is done, and the run ends at step 4 ",
        8: "going on after step 6",
    }.items():
        run = checked_run(["experiment=smoke", f"run.dir={tmp_path}", f"run.stop_after_step={last}"])
        assert program.resume_note(run).startswith(said)
