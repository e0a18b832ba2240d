"""train/__main__.py: its command line. What it does with it is in test_runs.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from train import __main__ as program

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


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_are_configurations(example: str) -> None:
    from data_pipelines.base.compose import compose
    from train.config.check import check

    check(compose(program.parse(shlex.split(example)).overrides))


def test_the_help_says_what_there_is_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert re.search(r"balance= +linear, none, sign, smebu", capsys.readouterr().out)
