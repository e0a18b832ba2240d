"""train/blueprint/count.py and the command: totals are transformers' own, a rank's part is what the engine gives it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.distributed.utils import set_spmd_backend
from transformers import AfmoeConfig, AfmoeForCausalLM

from data_pipelines.base.command import CONFIGS
from data_pipelines.base.errors import CONFIG_EXIT
from tests.measured import run_measured
from tests.train.afmoe import TOKEN_IDS, build_model, family_config, random_tokens, tiny_config
from train.afmoe.config import ModelConfig
from train.afmoe.decoder import moe_layers
from train.afmoe.spec import afmoe_config
from train.blueprint.count import Part, count
from train.blueprint.sharded import blueprint, pretended_ranks
from train.formats.hf_names import hf_config
from train.model import main, model_names
from train.optim.config import OptimizerConfig
from train.optim.groups import optimizers_config

ROOT = Path(__file__).parents[3]
MESHES = {  # replicas, shards, expert ranks
    "1 rank": (1, 1, 1),
    "1 x 4": (1, 4, 1),
    "1 x 4, EP 2": (1, 4, 2),
    "2 x 2, EP 2": (2, 2, 2),
    "1 x 8, EP 4": (1, 8, 4),  # more ranks than experts: these are split by rows
}


def count_whole(config: ModelConfig) -> list[Part]:
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        return count(afmoe_config(config, seq_len=16).build(), OptimizerConfig())


def count_on_ranks(config: ModelConfig, mesh: str) -> list[list[Part]]:
    """For each rank of the mesh, what it holds."""
    replicas, shards, expert_ranks = MESHES[mesh]
    parallelism = ParallelismConfig(
        data_parallel_replicate_degree=replicas,
        data_parallel_shard_degree=shards,
        expert_parallel_degree=expert_ranks,
        spmd_backend="partial_dtensor",
    )
    counted = []
    for rank in range(replicas * shards):
        with pretended_ranks(replicas * shards, rank=rank):
            model = blueprint(config, training=TrainingConfig(seq_len=16), parallelism=parallelism)
            counted.append(count(model, OptimizerConfig()))
    return counted


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        # published: 6B-A1B, 26B-A3B, 398B-A13B; the exact totals are those of transformers
        ("trinity_nano", 6_120_003_328, 1.02e9),
        ("trinity_mini", 26_123_974_400, 3.47e9),
        ("trinity_large", 398_635_286_016, 13.37e9),
    ],
)
def test_the_family_has_as_many_parameters_as_in_transformers(name: str, total: int, active: float) -> None:
    config = family_config(name)
    exported = hf_config(config, max_positions=16, speed=1e-3, token_ids=TOKEN_IDS, dtype="bfloat16")
    with torch.device("meta"):
        reference = AfmoeForCausalLM(AfmoeConfig(**exported))
    parts = count_whole(config)
    assert sum(part.total for part in parts) == reference.num_parameters() == total
    assert sum(part.active for part in parts) == pytest.approx(active, rel=0.005)  # published to three digits


def test_the_kinds_by_hand() -> None:
    # dim 24, 4 heads of 8 and 2 of keys and values; layer 0 dense of width 40, then 3 of 6 experts of width 12, top 2
    totals, active = Counter[str](), Counter[str]()
    for part in count_whole(tiny_config()):
        totals[part.kind] += part.total
        active[part.kind] += part.active
    assert totals == {
        "embedding": 61 * 24,
        "attention": 4 * (3 * 32 * 24 + 2 * 16 * 24),  # wq, gate and wo; wk and wv
        "norms": 24 + 4 * (4 * 24 + 2 * 8),
        "dense feed-forward": 3 * 40 * 24,
        "router": 3 * (6 * 24 + 6),  # gate and selection bias
        "shared experts": 3 * 3 * 12 * 24,
        "routed experts": 3 * 6 * 3 * 12 * 24,
        "head": 61 * 24,
    }
    assert active == totals | {"routed experts": 3 * 2 * 3 * 12 * 24}


def test_a_model_without_experts_uses_all_of_its_parameters() -> None:
    parts = count_whole(tiny_config(num_dense_layers=4))
    assert all(part.active == part.total for part in parts)


@pytest.mark.parametrize("mesh", MESHES)
def test_the_ranks_of_a_replica_hold_every_parameter_once_and_rank_0_the_most(mesh: str) -> None:
    by_rank = count_on_ranks(tiny_config(num_experts=4), mesh)
    replicas = MESHES[mesh][0]
    for parts in zip(*by_rank, strict=True):
        held = [part.on_rank for part in parts]
        copies = len(by_rank) if parts[0].updater == "balance" else replicas  # every rank has all selection biases
        assert sum(held) == copies * parts[0].total, parts[0]
        assert max(held) == held[0], parts[0]


def test_states_are_what_the_optimizers_and_the_balancing_rule_keep() -> None:
    model = build_model(tiny_config(), seq_len=8)
    optimizers = optimizers_config(OptimizerConfig()).build(model_parts=[model])
    model(random_tokens(2, 8)).sum().backward()
    optimizers.step()
    kept = Counter[str]()
    for optim in optimizers:
        for state in optim.state.values():  # AdamW also counts its steps, a number for each tensor
            kept[type(optim).__name__] += sum(v.numel() for v in state.values() if torch.is_tensor(v) and v.ndim)
    kept["balance"] = sum(moe.bias_momentum_E.numel() for _, moe in moe_layers(model))
    states, gradients = Counter[str](), 0
    for part in count(model, OptimizerConfig()):
        states[part.updater] += part.states_on_rank
        gradients += part.gradients_on_rank
    assert states == kept
    assert gradients == sum(p.grad.numel() for p in model.parameters() if p.grad is not None)


def test_trinity_large_on_2048_ranks_takes_less_than_4_gigabytes() -> None:
    exit_code, output, *_, peak_bytes = run_measured("train.model", "trinity_large", "parallelism=hsdp_ep8")
    assert exit_code == 0
    assert peak_bytes < 4e9
    assert "trinity_large: 398,635,286,016 parameters, of which a token uses 13,371,686,400 (3.4%)" in output
    assert "2,048 ranks: 16 replicas x 128 shards, experts over 8" in output
    cells = {line.split()[0]: line.split() for line in output.splitlines() if line}
    assert f"{200_192 * 3072 // 128:,}" in cells["embedding"]
    # 54 layers of 3 stacks of 256 matrices: 8 ranks have 32 matrices of each stack, 2 on each of 16 groups of them
    assert f"{54 * 3 * 2 * 3072 * 3072:,}" in cells["routed"]


def test_the_command_speaks_before_it_loads_torch() -> None:
    check = "import sys; import train.model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_a_model_that_is_not_there_is_answered_with_its_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trinity_larg"]) == CONFIG_EXIT
    problem = capsys.readouterr().err
    assert problem.startswith("error: model=trinity_larg: there is no such model (did you mean trinity_large?)")
    assert ", ".join(model_names()) in problem


def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trinity_tiny", "parallelism.expert_parallel_degree=3"]) == CONFIG_EXIT
    assert "expert_parallel_degree=3 does not divide model.num_experts=32" in capsys.readouterr().err


def test_two_models_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trinity_tiny", "model=trinity_mini"]) == CONFIG_EXIT
    assert capsys.readouterr().err == "error: got 2 models, trinity_tiny, trinity_mini; name one\n"


def test_several_models_are_counted_one_after_the_other_once_all_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "trinity_smoke,trinity_smok", "training.dtype=float32,bfloat16"]) == CONFIG_EXIT
    shown = capsys.readouterr()
    assert "parameters, of which" not in shown.out
    assert "(with model=trinity_smok dtype=float32, and with 1 other)" in shown.err
    assert "training.dtype: got 'bfloat16'" in shown.err
    assert main(["-m", "trinity_smoke", "model.num_experts=8,16"]) == 0
    headlines = [line for line in capsys.readouterr().out.splitlines() if "parameters, of which" in line]
    assert len(set(headlines)) == 2


def test_a_model_of_ones_own_is_known_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text((CONFIGS / "model/trinity_smoke.yaml").read_text())
    assert main(["mine", f"--config-dir={tmp_path}"]) == 0
    assert "trinity_smoke: 3," in capsys.readouterr().out
    assert main(["min", f"--config-dir={tmp_path}"]) == CONFIG_EXIT
    assert "did you mean mine?" in capsys.readouterr().err
