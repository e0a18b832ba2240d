"""train/studies/balance.py: the command, with runs of a few steps of a tiny model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT
from tests.train.small import small_settings
from train.metrics.jsonl import read_rows
from train.studies import balance
from train.studies import balance_measures as measures
from train.studies.cases import open_run_dirs

EXAMPLES = re.findall(r" -m train\.studies\.balance (.*?)(?:  .*)?$", balance.__doc__ or "", re.MULTILINE)
STEPS = 6  # 2 a phase: 102,400 tokens x 0.0025 = 256 = 2 x 4 sequences of 32


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    experiment, *overrides = small_settings(tmp_path_factory.mktemp("data"))
    assert experiment.startswith("experiment=")  # the study has its own
    # shards that are there have no vocabulary to train
    return ["~data.vocab_size", *overrides, "schedule.token_scale=2.5e-3"]


def test_a_study_trains_every_rule_and_writes_a_table_and_a_picture(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tmp_path), "--rules", "none,linear:0.1", *settings]
    assert balance.main(command) == 0
    output = capsys.readouterr().out
    rows = {name: read_rows(tmp_path / name) for name in ("none", "linear-0.1")}
    assert [len(of_run) for of_run in rows.values()] == [STEPS] * 2
    assert {row["phase"] for row in rows["none"]} == {"code", "prose", "stem"}
    # the same batches for both; only a rule moves biases
    assert len({tuple(row["batch_digest"] for row in of_run) for of_run in rows.values()}) == 1
    assert not any(measures.mean_panel(row, "bias_recoil") for row in rows["none"])
    assert any(measures.mean_panel(row, "bias_recoil") for row in rows["linear-0.1"])
    table = (tmp_path / "balance.md").read_text()
    assert measures.table([("none", rows["none"]), ("linear 0.1", rows["linear-0.1"])]) in table
    assert table in output
    assert output.endswith(f"picture: {tmp_path}/balance.png\n")
    assert (tmp_path / "balance.png").read_bytes().startswith(b"\x89PNG")

    # the same command again trains nothing and says the same
    written = (tmp_path / "none/metrics.jsonl").stat().st_mtime_ns
    assert balance.main(command) == 0
    assert (tmp_path / "none/metrics.jsonl").stat().st_mtime_ns == written
    assert table in capsys.readouterr().out


def test_a_run_that_fails_stops_the_study_with_its_last_words(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # known only once the engine builds the run
    wrong = "checkpoint.initial_load_path=/nowhere"
    assert balance.main([str(tmp_path), "--rules", "sign", "--at-once", "1", *settings, wrong]) == RUN_EXIT
    message = capsys.readouterr().err
    assert f"sign 0.03 ended with exit code {CONFIG_EXIT}" in message
    assert re.search(rf"The end of {tmp_path}/sign/log.txt:\n(  \| .*\n)*  \| error: .*/nowhere", message)
    assert not (tmp_path / "balance.md").exists()


def test_the_runs_differ_in_the_rule_and_its_speed_only(tmp_path: Path) -> None:
    from train.config.rundir import changes

    none, *others = [balance.open_case(rule, tmp_path, []).run.settings for rule in balance.RULES.split(",")]
    own = {"balance.sharpness": 2.0, "balance.momentum": 0.5}
    """What only some rules have; those that have it have the same."""
    for other in others:
        changed = {path: new for path, _, new in changes(none, other)}
        assert changed.keys() - own.keys() <= {"run.name", "run.dir", "balance.kind", "balance.speed"}
        assert {path: new for path, new in changed.items() if path in own}.items() <= own.items()


def test_an_override_of_the_speed_is_for_the_rules_that_name_none(tmp_path: Path) -> None:
    opened = [balance.open_case(rule, tmp_path, ["balance.speed=0.05"]) for rule in ("smebu", "smebu:0.1")]
    assert [case.label for case in opened] == ["smebu 0.05", "smebu 0.1"]


def test_all_problems_are_said_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    rules = "smebu,smebux,linear:fast,sign:-1"
    assert balance.main([str(out), "--rules", rules, "model.top_k=99"]) == CONFIG_EXIT
    message = capsys.readouterr().err
    assert "balance/smebux" in message
    assert "linear, none, sign, smebu" in message  # what there is
    assert re.search(r"balance\.speed: .*\(got 'fast'\)", message)
    assert "speed must be finite and not negative, got -1" in message
    assert message.count("top_k=99 exceeds num_experts=32") == 1
    assert not out.exists()


def test_a_folder_of_another_run_is_found_before_any_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a=b"
    (case,) = balance.open_cases(["sign"], out, [])
    open_run_dirs([case])
    (out / "sign/metrics.jsonl").write_text('{"step": 1}\n')
    assert balance.main([str(out), "--rules", "smebu,sign", "debug.seed=1"]) == CONFIG_EXIT
    assert "debug.seed: is 1 now" in capsys.readouterr().err
    assert [entry.name for entry in out.iterdir()] == ["sign"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--rules", "smebu:"], "--rules: got 'smebu:'; write RULE:SPEED"),
        (["--rules", "none:0.1"], "--rules: got 'none:0.1'; write RULE:SPEED"),
        (["--rules", "smebu:0.1,smebu:0.10"], "--rules: smebu 0.1 is there twice"),
        (["--rules", "smebu,linear", "balance.kind=sign"], "balance: each run of the study has its own rule"),
    ],
)
def test_runs_that_could_not_be_told_apart_are_refused(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert balance.main([str(tmp_path / "out"), *wrong]) == CONFIG_EXIT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_step_has_panels_whatever_is_set(tmp_path: Path) -> None:
    assert balance.open_case("smebu", tmp_path, ["metrics.panels_every=0"]).run.metrics.panels_every == 1


def test_a_study_that_is_to_stop_early_knows_when_it_is_done(tmp_path: Path) -> None:
    assert balance.open_case("smebu", tmp_path, ["run.stop_after_step=7"]).num_steps == 7


@pytest.mark.parametrize("wrong", [["--at-once", "0"], ["--rules"]])
def test_an_option_that_cannot_work_is_refused(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        balance.main([str(tmp_path / "out"), *wrong])
    assert exit_.value.code == CONFIG_EXIT


def test_a_file_is_no_folder_for_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out"
    file.write_text("keep me")
    with pytest.raises(SystemExit) as exit_:
        balance.main([str(file)])
    assert exit_.value.code == CONFIG_EXIT
    assert f"{file} is a file; name a folder" in capsys.readouterr().err
    assert file.read_text() == "keep me"


def test_the_help_says_what_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        balance.main(["--help"])
    assert balance.RULES in re.sub(r"\s+", "", capsys.readouterr().out)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_are_configurations(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no runs/ lies
    args = balance.parse(shlex.split(example))
    balance.open_case(args.rules.split(",")[-1], args.out, args.overrides)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3


def test_a_problem_of_ones_own_is_found(own_experiment: Path, tmp_path: Path) -> None:
    (own_experiment / "model").mkdir()
    (own_experiment / "model/mine.yaml").write_text("defaults:\n  - trinity_smoke\n\nnum_experts: 32\n")
    args = balance.parse([str(tmp_path / "out"), f"--config-dir={own_experiment}", "model=mine"])
    assert balance.open_case("sign", args.out, args.overrides).run.model.num_experts == 32
