"""train/config/rundir.py: a second start on a folder resumes the run in it, or is refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from train.config.binding import is_classified
from train.config.check import check, load_run
from train.config.full import completed
from train.config.rules.numbers import leaves
from train.config.rundir import changes, open_run_dir, stored_settings

COMPOSED: dict[str, Any] = {
    "run": {"name": "a", "dir": "runs/a"},
    "model": {
        "name": "tiny",
        "vocab_size": 288,
        "dim": 64,
        "num_layers": 2,
        "num_dense_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 8,
        "dense_hidden_dim": 24,
        "expert_hidden_dim": 12,
        "num_experts": 8,
        "top_k": 2,
        "sliding_window": 16,
    },
    "balance": {"kind": "smebu"},
    "data": {"kind": "stdlib", "mix": {"general": {"code": 0.5}}},
    "schedule": {
        "phases": [{"name": "general", "tokens": "1M"}],
        "batch": [{"from_tokens": 0, "sequences": 8}],
    },
    "training": {"seq_len": 256, "local_batch_size": 8},
    "parallelism": {"data_parallel_shard_degree": 2},
    "debug": {"seed": 0, "deterministic": False},
}
SETTINGS = completed(COMPOSED)


def make_run(run_dir: Path, **changed: Any) -> Any:
    """SETTINGS with other values: section__key=value, or section={...}."""
    settings = deepcopy(SETTINGS)
    for name, value in changed.items():
        section, _, key = name.partition("__")
        settings[section] = settings[section] | {key: value} if key else value
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
        ({"data__mix": None}, "data.mix", "{'general'", "'proportional'"),
        ({"debug__moe_force_load_balance": True}, "debug.moe_force_load_balance", "False", "True"),
        ({"validation__windows": 8}, "validation.windows", "32", "8"),  # its losses could not be compared
        ({"training__max_norm": 2.0}, "training.max_norm", "1.0", "2.0"),
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


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.yaml"], r"config\.yaml: holds no sections of settings; .* not written over: .* or choose another"),
        (["plan.json", "tokenizer/notes.txt"], r"run: has plan\.json, tokenizer, but no config\.yaml of the run"),
        (["metrics.jsonl"], r"run: has metrics\.jsonl, but no config\.yaml"),
        (["checkpoint/step-6/.metadata"], r"run: has checkpoint, but no config\.yaml"),
        (["loads.png"], r"run: has loads\.png, but no config\.yaml"),
    ],
)
def test_files_that_are_not_those_of_a_run_are_never_written_over(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("my: own")
    with pytest.raises(ConfigError, match=said):
        open_run_dir(make_run(tmp_path / "run"))
    assert [(tmp_path / "run" / name).read_text() for name in files] == ["my: own"] * len(files)
    assert len([path for path in (tmp_path / "run").rglob("*") if path.is_file()]) == len(files)


def test_a_run_may_begin_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/slurm.out").write_text("job 1")  # where its output goes
    (tmp_path / "run/starts.jsonl").write_text("{}\n")  # what launch.submit has left
    for file in ("slurm/job.sbatch", "code/0f0f828/train/__main__.py", "owner.json"):
        (tmp_path / "run" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / file).touch()
    open_run_dir(make_run(tmp_path / "run"))
    (tmp_path / "run/plan.json").touch()  # a start that failed in its first step
    open_run_dir(make_run(tmp_path / "run", model__dim=128))


@pytest.mark.parametrize("checkpoint", [{}, {"enable": False}])
def test_results_without_their_configuration_are_not_gone_on_from(run_dir: Path, checkpoint: dict[str, Any]) -> None:
    (run_dir / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"has metrics\.jsonl, but no config\.yaml of the run .* restore it"):
        open_run_dir(make_run(run_dir, model__dim=128, checkpoint=SETTINGS["checkpoint"] | checkpoint))
    assert [file.name for file in run_dir.iterdir()] == ["metrics.jsonl"]


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


def store_composed(run_dir: Path) -> None:
    """As commit 87358bc did: what was composed, without defaults."""
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(COMPOSED)))


def test_a_default_that_an_older_version_did_not_store_binds_too(run_dir: Path) -> None:
    store_composed(run_dir)
    open_run_dir(make_run(run_dir))
    assert stored(run_dir) == SETTINGS
    store_composed(run_dir)
    with pytest.raises(ConfigError, match=r"optimizer\.adamw\.weight_decay: is 0\.2 now, .* was started with 0\.1;"):
        open_run_dir(make_run(run_dir, optimizer__adamw=SETTINGS["optimizer"]["adamw"] | {"weight_decay": 0.2}))


@pytest.mark.parametrize(("sharpness", "momentum"), [(2.0, 0.5), (3.0, 0.9)])
def test_settings_of_smebu_that_an_older_version_stored_for_another_rule_are_passed_over(
    run_dir: Path, sharpness: float, momentum: float
) -> None:
    older = SETTINGS["balance"] | {"kind": "sign", "sharpness": sharpness, "momentum": momentum}
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({**COMPOSED, "balance": older})))
    now = {key: value for key, value in older.items() if key not in ("sharpness", "momentum")}
    assert stored_settings(run_dir)["balance"] == now
    open_run_dir(make_run(run_dir, balance=now))
    with pytest.raises(ConfigError, match=r"balance\.speed: is 0\.1 now"):
        open_run_dir(make_run(run_dir, balance=now | {"speed": 0.1}))


def test_a_stored_key_that_this_version_cannot_read_is_named(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.create({**COMPOSED, "balance": {"kind": "smebu", "sped": 1}}))
    )
    with pytest.raises(ConfigError, match=r"config\.yaml: balance\.sped: unknown key .*; this version cannot read it"):
        open_run_dir(make_run(run_dir))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no sections of settings"),
        ("run: {name: a", "cannot be read"),
        ("run: 3", "holds no sections of settings"),
        ("run: {name: a}", r"model\.vocab_size: is required and missing"),
    ],
)
def test_a_damaged_configuration_is_named(run_dir: Path, text: str, said: str) -> None:
    (run_dir / "config.yaml").write_text(text)
    for opening in (load_run, lambda folder: open_run_dir(make_run(folder))):
        with pytest.raises(ConfigError, match=rf"run/config\.yaml: {said}"):
            opening(run_dir)
    assert (run_dir / "config.yaml").read_text() == text


def test_a_run_directory_of_commit_87358bc_opens_and_goes_on(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    copytree(Path(__file__).parent / "run_87358bc", run_dir)
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    assert load_run(run_dir).timeline.num_steps == 114
    open_run_dir(check(compose(["experiment=smoke", f"run.dir={run_dir}"])))
    assert stored(run_dir)["optimizer"]["adamw"]["betas"] == [0.9, 0.95]


@pytest.mark.parametrize("experiment", ["smoke", "balance_study", "trinity_nano", "trinity_large"])
def test_what_a_folder_says_is_the_full_configuration_and_reads_back_as_itself(experiment: str, tmp_path: Path) -> None:
    run = check(compose([f"experiment={experiment}", f"run.dir={tmp_path}"]))
    open_run_dir(run)
    assert stored(tmp_path) == run.settings == check(stored(tmp_path)).settings
    assert run.settings["optimizer"]["muon"]["momentum"] == 0.95
    assert run.settings["schedule"]["phases"][0]["tokens"] in (10 * 10**12, 7 * 10**12, 102_400)
    assert {"steps", "global_batch_size"}.isdisjoint(run.settings["training"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["activation_checkpoint.kind=memory_budget", "checkpoint.exclude_from_loading=[]"],
        ["activation_checkpoint.kind=selective", "model.init_std=0.1", "data.max_epochs=3"],
        ["data=files", "data.sources.web.glob=*.txt"],
        ["data=shards", "data.sources.web.train=a", "data.mix.stem.web=1", "schedule.decay=null"],
    ],
)
def test_every_setting_is_bound_or_free(overrides: list[str]) -> None:
    settings = completed(compose(["experiment=smoke", *overrides]))
    assert [path for path, _ in leaves(settings) if not is_classified(path)] == []


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(ConfigError, match=r"run\.dir=.*file/run: cannot be written .*choose another folder"):
        open_run_dir(make_run(file / "run"))
    assert file.read_text() == "not a folder"


def add_results(run_dir: Path, *, last_row: int, checkpoints: dict[str, int]) -> None:
    """Rows of steps 1 to `last_row`, and a checkpoint in each of the folders: name -> its step."""
    (run_dir / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, last_row + 1)))
    for folder, step in checkpoints.items():
        (run_dir / folder / f"step-{step}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("checkpoints", "checkpoint", "said"),
    [
        ({"checkpoint": 6}, {"enable": False}, r"enable=false: .* has checkpoints in checkpoint/ up to step 6"),
        ({"checkpoint": 6}, {"folder": "b"}, r"folder=b: .* has checkpoints in checkpoint/ up to step 6"),
        ({"checkpoint": 6, "b": 2}, {"folder": "b"}, r"folder=b: .* has checkpoints in checkpoint/ up to step 6"),
        ({}, {"enable": False}, r"enable=false: .* has rows up to step 6 and no checkpoint"),
        ({}, {"interval": 9}, r"folder=checkpoint: .* has rows up to step 6 and no checkpoint"),
    ],
)
def test_a_start_that_would_lose_steps_is_refused(
    run_dir: Path, checkpoints: dict[str, int], checkpoint: dict[str, Any], said: str
) -> None:
    usual = SETTINGS["checkpoint"] | {"enable": True, "interval": 3}
    open_run_dir(make_run(run_dir, checkpoint=usual))
    add_results(run_dir, last_row=6, checkpoints=checkpoints)
    with pytest.raises(ConfigError, match=rf"checkpoint\.{said}"):
        open_run_dir(make_run(run_dir, checkpoint=usual | checkpoint))
    assert stored(run_dir)["checkpoint"] == usual


@pytest.mark.parametrize(
    ("last_row", "checkpoints"),
    [(3, {}), (5, {"checkpoint": 3}), (9, {"checkpoint": 3}), (6, {"checkpoint": 3, "rewound-1": 6})],
    ids=["killed before the first checkpoint", "killed", "the last checkpoint deleted as advised", "rewound"],
)
def test_a_start_that_loses_no_more_than_a_kill_goes_on(
    run_dir: Path, last_row: int, checkpoints: dict[str, int]
) -> None:
    run = make_run(run_dir, checkpoint=SETTINGS["checkpoint"] | {"enable": True, "interval": 3})
    open_run_dir(run)
    add_results(run_dir, last_row=last_row, checkpoints=checkpoints)
    open_run_dir(run)


@pytest.mark.parametrize("damage", ['{"step": 2, "lo\x00s\n', "[1, 2]\n", '{"steps": 2}\n'])
def test_a_damaged_row_is_named_before_a_start_would_cut_it(run_dir: Path, damage: str) -> None:
    rows = run_dir / "metrics.jsonl"
    rows.write_text('{"step": 1}\n' + damage)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2: .*; remove the line, or restore the file"):
        open_run_dir(make_run(run_dir))
    assert rows.read_text() == '{"step": 1}\n' + damage
