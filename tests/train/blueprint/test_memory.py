"""train/blueprint/memory.py and activations.py by hand, and what the recipes say of GPUs.

B = batch, L = sequence, D = model width, F = hidden width, T = B L, K = experts a token visits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointing, FullAC, MemoryBudgetAC, SelectiveAC

from data_pipelines.settings.compose import compose
from tests.train.afmoe import tiny_config
from train.afmoe.config import ModelConfig
from train.blueprint.activations import LayerBytes
from train.blueprint.count import count, count_whole
from train.blueprint.memory import Memory, all_layers, exchange_bytes, fitting, held_bytes, loss_bytes, memory
from train.blueprint.sharded import blueprint, pretended_ranks
from train.config.check import check_some
from train.config.run import ModelSections
from train.engine.mesh import world_size
from train.loss.config import LossConfig
from train.optim.config import OptimizerConfig
from train.optim.muon import MuonConfig

B, L, D = 2, 16, 24  # D: of tiny_config
T = B * L
BF16 = 2
FULL, EVERYTHING = FullAC.Config(), None
TRAINING = TrainingConfig(local_batch_size=B, seq_len=L)


def small(**changes: Any) -> ModelConfig:
    """tiny_config with experts whose rows fill 16 bytes in bfloat16, as torch's grouped product asks."""
    return tiny_config(**{"expert_hidden_dim": 16, **changes})


def layers_of(
    config: ModelConfig, recompute: ActivationCheckpointing.Config | None, *, expert_ranks: int = 1
) -> list[LayerBytes]:
    parallelism = ParallelismConfig(expert_parallel_degree=expert_ranks)
    return all_layers(config, training=TRAINING, parallelism=parallelism, recompute=recompute)


def memory_of(config: ModelConfig, policy: Any) -> Memory:
    parallelism = ParallelismConfig(fsdp_reshard_after_forward=policy)
    return memory(
        count_whole(config, OptimizerConfig()),
        layers_of(config, FULL),
        model=config,
        optimizer=OptimizerConfig(),
        training=TRAINING,
        parallelism=parallelism,
        loss=LossConfig(),
    )


def test_the_peak_is_the_worst_moment_on_top_of_what_is_there() -> None:
    taken = Memory(held={"a": 10, "b": 1}, kept={"c": 5}, moments={"d": 3, "e": 7}, step={"f": 2})
    assert taken.peak == 11 + 5 + 7
    assert replace(taken, step={"f": 100}).peak == 111


def test_full_recomputation_keeps_the_input_of_each_layer() -> None:
    assert [layer.kept for layer in layers_of(small(), FULL)] == [BF16 * T * D] * 4


def test_a_wider_network_keeps_four_tensors_more() -> None:
    # gate, silu(gate), up and their product: the operands of silu, of the multiplication and of the last projection
    wide, narrow = (layers_of(small(dense_hidden_dim=F), EVERYTHING)[0] for F in (48, 40))
    assert wide.kept - narrow.kept == 4 * BF16 * T * 8


def test_wider_experts_keep_four_tensors_more_for_each_expert_that_a_token_visits() -> None:
    wide, narrow = (layers_of(small(expert_hidden_dim=F, num_shared_experts=0), EVERYTHING)[1] for F in (24, 16))
    assert wide.kept - narrow.kept == 4 * BF16 * T * 2 * 8  # K = 2


def test_as_many_tokens_arrive_at_a_rank_of_experts_as_leave() -> None:
    alone, one_of_two = (layers_of(small(), EVERYTHING, expert_ranks=ranks)[1] for ranks in (1, 2))
    assert alone.kept - one_of_two.kept == 4 * 3  # where the tokens of each of 6 or 3 experts end


def test_attention_keeps_its_operands_and_not_its_scores() -> None:
    # twice the sequence, twice the bytes: scores would be four times as many
    short, long = (
        all_layers(
            small(),
            training=TrainingConfig(local_batch_size=1, seq_len=length),
            parallelism=ParallelismConfig(expert_parallel_degree=1),
            recompute=EVERYTHING,
        )[0].kept
        for length in (512, 1024)
    )
    assert long == pytest.approx(2 * short, rel=0.01)


def test_weights_are_gathered_whole_but_for_other_ranks_experts() -> None:
    attention = 3 * 32 * 24 + 2 * 16 * 24 + 4 * 24 + 2 * 8  # and its norms, and those of the network
    shared, expert, router = 3 * 16 * 24, 3 * 16 * 24, 6 * 24
    dense, sparse, *_ = layers_of(small(), FULL, expert_ranks=2)
    assert dense.weights == BF16 * (attention + 3 * 40 * 24)
    assert sparse.weights == BF16 * (attention + shared + router + 3 * expert)


def test_what_is_recomputed_is_not_kept_but_there_at_the_worst_moment() -> None:
    config = small()
    policies = (FULL, SelectiveAC.Config(), EVERYTHING)
    full, selective, everything = (layers_of(config, policy)[1] for policy in policies)
    assert full.kept < selective.kept < everything.kept
    assert full.peak >= everything.kept


@pytest.mark.parametrize(("budget", "like"), [(0.0, FULL), (1.0, EVERYTHING)])
def test_a_memory_budget_lies_between_full_recomputation_and_none(budget: float, like: Any) -> None:
    config = small()
    kept = [layer.kept for layer in layers_of(config, MemoryBudgetAC.Config(memory_budget=budget))]
    assert kept == [layer.kept for layer in layers_of(config, like)]


def test_what_is_held_by_hand() -> None:
    parts = count_whole(small(), OptimizerConfig())
    total, biases = sum(part.total for part in parts), 3 * 6  # three layers of 6 experts
    vectors = 24 + 4 * (4 * 24 + 2 * 8)
    adamw = 2 * 61 * 24 + vectors  # embedding and head
    assert held_bytes(parts) == {
        "weights": 4 * total,
        "gradients": 4 * (total - biases),
        "states of AdamW": 4 * 2 * adamw,
        "states of Muon": 4 * (total - biases - adamw),
        "states of balance": 4 * biases,
    }


def test_the_loss_takes_six_bytes_a_logit_of_a_chunk() -> None:
    # float32, and bfloat16 before; 128 tokens more in a chunk of 8,192 logits
    config = small(vocab_size=8192)
    training = TrainingConfig(local_batch_size=8, seq_len=128)
    less, more = (loss_bytes(config, LossConfig(chunk_tokens=size), training) for size in (128, 256))
    assert more - less == pytest.approx(6 * 128 * 8192, rel=0.01)


def test_of_many_chunks_two_are_run() -> None:
    # 1,024 tokens in chunks of 512 are all run; 64 times as many cost their inputs, gradients (2 x 2 bytes) and labels
    config = small(vocab_size=8192)
    few, many = (
        loss_bytes(config, LossConfig(chunk_tokens=512), TrainingConfig(local_batch_size=batch, seq_len=128))
        for batch in (8, 512)
    )
    assert many - few == 63 * 1024 * (2 * 2 * config.dim + 8)


@pytest.mark.parametrize(("replicas", "mib"), [(16, 4 + 22 / 16), (2, 4 + 11), (1, 22)])
def test_the_exchange_of_muon_by_hand(replicas: int, mib: float) -> None:
    # 8 MiB of matrices in rounds of 1 MiB, four under way: 4 MiB; to send and to receive 1/R of that each; 4/R MiB for
    # Newton-Schulz of one. Without replicas the first is what is sent.
    part = replace(count_whole(small(), OptimizerConfig())[0], updater="Muon", on_rank=4 * 2**20)
    parallelism = ParallelismConfig(data_parallel_replicate_degree=replicas)
    assert exchange_bytes([part], MuonConfig(exchange_mib=1), parallelism) == mib * 2**20


def test_layers_that_stay_whole_are_gathered_once() -> None:
    config = small()
    layers = layers_of(config, FULL)
    weights = sum(layer.weights for layer in layers)
    again, once = memory_of(config, "default"), memory_of(config, "never")
    assert once.kept["weights of all layers"] == weights
    moment = "backward pass of a layer"
    assert again.moments[moment] - once.moments[moment] == 2 * max(layer.weights for layer in layers)


def test_a_gpu_has_a_tenth_for_others() -> None:
    assert fitting(72_000_000_000) == {"H100": True, "H200": True, "B200": True, "B300": True}
    assert fitting(72_000_000_001) == {"H100": False, "H200": True, "B200": True, "B300": True}


@pytest.mark.parametrize(
    ("experiment", "smallest"),
    [
        ("trinity_large", "B300"),
        ("trinity_large_h200", "H200"),
        ("trinity_large_h100", "H100"),
        ("trinity_mini", "H100"),
        ("trinity_nano", "H100"),
        ("trinity_nano_1node", "H100"),
        ("trinity_tiny", "H100"),
    ],
)
def test_a_recipe_fits_the_gpu_that_it_names_and_none_smaller(experiment: str, smallest: str) -> None:
    overrides = [f"experiment={experiment}", "model.attention=sdpa"]
    sections = check_some(compose(overrides), ModelSections)
    model, training, parallelism = sections.model, sections.training, sections.parallelism
    with pretended_ranks(world_size(parallelism)):
        parts = count(blueprint(model, training=training, parallelism=parallelism), sections.optimizer)
    layers = all_layers(model, training=training, parallelism=parallelism, recompute=sections.activation_checkpoint)
    taken = memory(
        parts,
        layers,
        model=model,
        optimizer=sections.optimizer,
        training=training,
        parallelism=parallelism,
        loss=sections.loss,
    )
    assert next(gpu for gpu, fits in fitting(taken.peak).items() if fits) == smallest
    assert sum(taken.held.values()) < taken.peak
