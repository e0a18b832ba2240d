"""train/optim/manifest.py: the rules of a run, and a checkpoint that was made by others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from tests.train.optim.small_model import EXPERTS, SHAPES, model_of, values
from train.optim.config import OptimizerConfig
from train.optim.groups import Optimizers, optimizers_config
from train.optim.manifest import FILE_NAME, Rules, check_same_rules, manifest_text, rules_text, table

W1, GATE, HEAD = f"{EXPERTS}.w1_EFD", "layers.1.moe.router.gate.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def optimizers() -> Optimizers:
    built = optimizers_config(OptimizerConfig()).build(model_parts=[model_of(values(seed=0))])
    assert isinstance(built, Optimizers)
    return built


@pytest.fixture
def rules(optimizers: Optimizers) -> Rules:
    return dict(optimizers.rules)


def checkpoint_with(folder: Path, text: str) -> Path:
    (folder / FILE_NAME).write_text(text)
    return folder


def test_every_parameter_has_a_rule(rules: Rules) -> None:
    assert {name: rule.shape for name, rule in rules.items()} == SHAPES
    experts = rules[W1]
    assert (experts.optimizer, experts.matrices, experts.weight_decay) == ("muon", 6, 0.1)
    assert experts.rate_factor == pytest.approx(1.5**0.5)  # sqrt(12 / 8)
    assert (rules[HEAD].optimizer, rules[HEAD].matrices, rules[HEAD].rate_factor) == ("adamw", 0, 1.0)
    assert rules["layers.0.attention_norm.weight"].weight_decay == 0.0


def test_the_table_counts_layers_together(rules: Rules) -> None:
    rows = [line.split() for line in table(rules | {W1.replace("layers.1", "layers.2"): rules[W1]})]
    assert rows[0] == ["parameter", "optimizer", "shape", "rate", "decay", "count"]
    assert [W1.replace(".1.", ".*."), "muon", "6x12x8", "x", "1.22474", "0.1", "2"] in rows


def test_a_run_goes_on_under_its_own_rules(rules: Rules, tmp_path: Path) -> None:
    check_same_rules(checkpoint_with(tmp_path, rules_text(rules)), rules)


def test_a_checkpoint_of_a_version_without_rules_is_taken(rules: Rules, tmp_path: Path) -> None:
    check_same_rules(tmp_path, rules)


def test_other_rules_are_refused_with_the_difference(rules: Rules, tmp_path: Path) -> None:
    checkpoint = checkpoint_with(tmp_path, rules_text(rules))
    rules[GATE] = replace(rules[GATE], optimizer="adamw", matrices=0)
    del rules[HEAD]
    with pytest.raises(ConfigError) as caught:
        check_same_rules(checkpoint, rules)
    said = str(caught.value)
    assert f"{GATE} was under muon, 1 matrix of 6x8, rate x 1, weight decay 0.1; now adamw, 6x8" in said
    assert f"{HEAD} was under adamw, 11x8, rate x 1, weight decay 0.1; now no rule" in said


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rules": {"w": {}}}'])
def test_a_damaged_file_is_named(rules: Rules, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.json is damaged"):
        check_same_rules(checkpoint_with(tmp_path, text), rules)


@pytest.mark.parametrize("text", [b"\xff\xfe\x00{", b"null", b"[" * 100_000])
def test_so_is_one_of_other_bytes(rules: Rules, tmp_path: Path, text: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(text)
    with pytest.raises(ConfigError, match=r"optimizer\.json is damaged"):
        check_same_rules(tmp_path, rules)


def test_only_what_is_not_there_is_of_an_earlier_version(rules: Rules, tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    (folder / FILE_NAME).mkdir(parents=True)
    link.mkdir()
    (link / FILE_NAME).symlink_to("nowhere")
    for checkpoint in (folder, link):
        with pytest.raises(ConfigError, match=r"optimizer\.json is damaged"):
            check_same_rules(checkpoint, rules)


def test_the_hash_is_that_of_the_rules(optimizers: Optimizers, rules: Rules) -> None:
    kept, other = json.loads(rules_text(rules)), dict(rules)
    other[HEAD] = replace(other[HEAD], weight_decay=0.2)
    assert json.loads(manifest_text(rules, optimizers, num_ranks=1))["hash"] == kept["hash"]
    assert json.loads(rules_text(other))["hash"] != kept["hash"]


def test_the_run_directory_says_who_owns_what(optimizers: Optimizers, rules: Rules) -> None:
    """One rank owns all, and receives nothing."""
    manifest = json.loads(manifest_text(rules, optimizers, num_ranks=1))
    assert manifest["owners"][W1] == [0] * 6
    assert set(manifest["owners"]) == {name for name, rule in rules.items() if rule.optimizer == "muon"}
    assert set(manifest["mean_bytes_received_by_a_rank_in_a_step"].values()) == {0}
    assert manifest["ranks"] == 1
