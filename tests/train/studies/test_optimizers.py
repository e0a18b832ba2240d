"""train/studies/optimizers.py: the command, with runs of a few steps of a tiny model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from data_pipelines.base.errors import CONFIG_EXIT
from tests.train.small import small_settings
from train.metrics.jsonl import read_rows
from train.studies import optimizer_measures as measures
from train.studies import optimizers
from train.studies.cases import items
from train.studies.optimizer_measures import Trial

EXAMPLES = re.findall(r" -m train\.studies\.optimizers (.*?)(?:  .*)?$", optimizers.__doc__ or "", re.MULTILINE)


def test_a_study_trains_every_rate_and_seed_and_writes_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*small_settings(tmp_path)[1:], "validation.windows=2", "run.stop_after_step=3"]
    command = ["--rates", "muon:0.02,adamw:0.01", "--seeds", "0,1", *settings]
    assert optimizers.main([str(tmp_path / "nothing held out"), *command]) == CONFIG_EXIT
    assert "no source has held-out text" in capsys.readouterr().err
    out = tmp_path / "out"
    assert optimizers.main([str(out), *command, f"data.sources.random.held_out={tmp_path / 'shards'}"]) == 0
    output = capsys.readouterr().out
    trials = [
        Trial(optimizer, float(rate), seed, read_rows(out / f"{optimizer}-{rate}-seed-{seed}"))
        for optimizer, rate in (("muon", "0.02"), ("adamw", "0.01"))
        for seed in (0, 1)
    ]
    assert [len(trial.rows) for trial in trials] == [3] * 4
    batches = [[row["batch_digest"] for row in trial.rows] for trial in trials]
    assert batches[0] == batches[2] != batches[1] == batches[3]  # a seed is the same for both optimizers
    assert trials[0].rows[0]["loss"] == trials[2].rows[0]["loss"]  # and so are its weights
    assert ["lr_muon" in trial.rows[0] for trial in trials] == [True, True, False, False]
    table = (out / "optimizers.md").read_text()
    assert measures.table(trials) in table
    assert all(line in table for line in measures.conclusion(trials))
    assert table in output
    assert (out / "optimizers.png").read_bytes().startswith(b"\x89PNG")


def test_the_runs_differ_in_optimizer_rate_and_seed_only(tmp_path: Path) -> None:
    from train.config.rundir import changes

    cases = optimizers.open_cases(items(optimizers.RATES), ["0", "1"], tmp_path, [])
    first, *others = [case.run.settings for case in cases]
    own = {"run.name", "run.dir", "optimizer.hidden", "optimizer.muon.lr", "optimizer.adamw.lr", "debug.seed"}
    for other in others:
        assert {path for path, _, _ in changes(first, other)} <= own
    assert len({case.run.timeline.tokens_after(case.run.last_step) for case in cases}) == 1


def test_all_problems_are_said_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert optimizers.main([str(out), "--rates", "muon:0.02,sgd:0.1,adamw:-1", "model.top_k=99"]) == CONFIG_EXIT
    message = capsys.readouterr().err
    assert "sgd" in message
    assert re.search(r"optimizer\.adamw\.lr: .*-1", message)
    assert message.count("top_k=99 exceeds") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--rates", "muon"], "--rates: got 'muon'; write OPTIMIZER:RATE"),
        (["--rates", "muon:0.1,muon:0.10"], "--rates and --seeds: muon 0.1, seed 0 is there twice"),
        (["validation.windows=0"], "validation.windows=0: held-out losses are what the study compares"),
    ],
)
def test_what_could_not_be_compared_is_refused(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert optimizers.main([str(tmp_path / "out"), *wrong]) == CONFIG_EXIT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_are_configurations(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no runs/ lies
    args = optimizers.parse(shlex.split(example))
    optimizers.open_case(items(args.rates)[-1], "0", args.out, args.overrides)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3
