"""train/afmoe/init.py: weights at step 0 depend on the seed and on nothing of the mesh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchtitan.config import ParallelismConfig, TrainingConfig

from tests.train.afmoe import family_config, tiny_config
from tests.train.afmoe.rank_checks import (
    CASES,
    WORLD_SIZE,
    Outcome,
    held_by_this_rank,
    run_checks,
    sharded_model,
)
from train.afmoe import init
from train.afmoe.decoder import Afmoe
from train.afmoe.init import block_seed, initialize_parameters_
from train.afmoe.spec import afmoe_config
from train.blueprint.sharded import blueprint, pretended_ranks
from train.process.warm import WARM, warm_up

SEQ_LEN = 8


def fresh(seed: int = 0, **changes: object) -> Afmoe:
    """Weights as the trainer finds them."""
    model = afmoe_config(tiny_config(**changes), seq_len=SEQ_LEN, seed=seed).build()
    model.init_states()
    return model


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """Of each rank, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    warm_up()
    ranks = [WARM.Process(target=run_checks, args=(rank, str(folder))) for rank in range(WORLD_SIZE)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("case", CASES)
def test_every_mesh_and_expert_degree_has_the_bits_of_one_process(
    outcomes: list[dict[str, Outcome]], case: str
) -> None:
    assert [of_rank[case].wrong for of_rank in outcomes] == [[]] * WORLD_SIZE


@pytest.mark.parametrize("case", CASES)
def test_a_pretended_rank_holds_what_a_real_one_does(outcomes: list[dict[str, Outcome]], case: str) -> None:
    for rank, of_rank in enumerate(outcomes):
        with pretended_ranks(WORLD_SIZE, rank=rank):
            assert held_by_this_rank(sharded_model(CASES[case])) == of_rank[case].held


class LargestNew(TorchDispatchMode):
    """Elements of the largest tensor that does not lie in one of the `given`."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if type(tensor) is Tensor and tensor.untyped_storage().data_ptr() not in self.given:
                self.numel = max(self.numel, tensor.numel())
        return result


def test_a_rank_of_a_large_model_draws_one_block_at_a_time() -> None:
    # Mini's widths on 512 ranks: a rank holds 1,564 rows of the embedding and one expert of each stack of 128. The
    # largest block is one expert, or 256 rows of the dense w2: 1024 x 2048 > 256 x 6144. A stack is 128 times that.
    config = replace(family_config("trinity_mini"), num_layers=2, num_dense_layers=1, attention="sdpa")
    parallelism = ParallelismConfig(
        data_parallel_replicate_degree=4,
        data_parallel_shard_degree=128,
        expert_parallel_degree=8,
        spmd_backend="partial_dtensor",
    )
    with pretended_ranks(512, rank=333):
        model = blueprint(config, training=TrainingConfig(seq_len=SEQ_LEN), parallelism=parallelism)
        model.to_empty(device="cpu")
        parts = {name: p.to_local() for name, p in model.named_parameters() if isinstance(p, DTensor)}
        with LargestNew(parts.values()) as new:
            initialize_parameters_(model, std=0.02, seed=0)
    assert new.numel == 1024 * 2048
    assert all(part.any() for part in parts.values())


def fill_in_parts(shape: tuple[int, ...], *, axis: int, num_parts: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """A parameter that `num_parts` ranks fill, each its chunk along `axis` as a DTensor of Shard(axis) holds it."""
    whole = torch.full(shape, float("nan"))
    offset = 0
    for part in whole.chunk(num_parts, dim=axis):
        place = tuple(offset if dim == axis else 0 for dim in range(len(shape)))
        with monkeypatch.context() as patch:
            patch.setattr(init, "_local_part", lambda parameter, local=part, place=place: (local, place))
            init._fill_trunc_normal_(whole, name="w", std=0.02, seed=0)
        offset += part.shape[axis]
    return whole


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((600, 4), 0),  # blocks of 256, 256 and 88 rows
        ((5, 12, 4), 0),  # whole experts
        ((5, 12, 4), 1),  # rows of every expert
    ],
)
@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_weights_do_not_depend_on_how_they_are_sharded(
    shape: tuple[int, ...], axis: int, num_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.empty(shape)
    init._fill_trunc_normal_(whole, name="w", std=0.02, seed=0)
    parts = fill_in_parts(shape, axis=axis, num_parts=num_parts, monkeypatch=monkeypatch)
    assert torch.equal(parts, whole)


def test_a_rank_without_rows_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_local_part", lambda parameter: (parameter[:0], (600, 0)))
    whole = torch.zeros(600, 4)
    init._fill_trunc_normal_(whole, name="w", std=0.02, seed=0)
    assert not whole.any()


def test_blocks_by_hand() -> None:
    # rows 250..519 in blocks of 256: 6 of the first, all of the second, 8 of the third
    assert list(init._blocks(250, 270, 256)) == [
        (0, slice(250, 256), slice(0, 6)),
        (1, slice(0, 256), slice(6, 262)),
        (2, slice(0, 8), slice(262, 270)),
    ]


def test_matrices_are_normal_and_cut_at_three_deviations() -> None:
    weight = fresh(vocab_size=5000, init_std=0.02).get_parameter("lm_head.weight") / 0.02
    # n = 120,000. A normal cut at 3 has variance 1 - 6 phi(3) / (2 Phi(3) - 1) = 1 - 6 x 0.0044318 / 0.9973002 =
    # 0.97334, deviation 0.98658. Tolerance: five standard errors, 1 / sqrt(n) of the mean, 1 / sqrt(2 n) of the other.
    n = weight.numel()
    assert weight.mean().item() == pytest.approx(0.0, abs=5 / n**0.5)
    assert weight.std().item() == pytest.approx(0.98658, abs=5 / (2 * n) ** 0.5)
    assert 2.9 < weight.abs().max() <= 3.0 + 1e-6  # float32 division


def test_every_matrix_has_the_deviation_of_the_width() -> None:
    # init_std null: 0.5 / sqrt(24) = 0.1021
    for name, parameter in fresh(init_std=None).named_parameters():
        if parameter.ndim > 1:
            n = parameter.numel()
            deviation = 0.5 / 24**0.5 * 0.98658
            assert parameter.std().item() == pytest.approx(deviation, rel=5 / (2 * n) ** 0.5), name


def test_the_norm_that_closes_each_half_of_a_layer_starts_at_the_depth_scale() -> None:
    # four layers: 1 / sqrt(4)
    gains = {name: set(p.tolist()) for name, p in fresh().named_parameters() if p.ndim == 1}
    closing = {name for name in gains if name.endswith("_post_norm.weight")}
    assert len(closing) == 2 * 4
    assert all(gains[name] == {0.5} for name in closing)
    assert all(values == {1.0} for name, values in gains.items() if name not in closing)


def test_biases_and_counts_start_at_0() -> None:
    buffers = {name: b for name, b in fresh().named_buffers() if ".moe." in name}
    largest = [buffers.pop(name) for name in list(buffers) if name.endswith("max_logit")]
    assert len(largest) == 3  # of each MoE layer
    assert all(logit == -torch.inf for logit in largest)
    assert len(buffers) == 5 * 3
    assert not any(buffer.any() for buffer in buffers.values())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (fresh(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_parameters_of_one_shape_differ() -> None:
    matrices = [p for p in fresh().parameters() if p.ndim > 1]
    starts = {tuple(matrix.flatten()[:3].tolist()) for matrix in matrices}
    assert len(starts) == len(matrices)


def test_another_layer_changes_no_other_matrix() -> None:
    small, large = fresh(num_layers=4).state_dict(), fresh(num_layers=6).state_dict()
    assert all(torch.equal(tensor, large[name]) for name, tensor in small.items() if tensor.ndim > 1)


def test_initializing_again_changes_nothing() -> None:
    model = fresh(seed=3)
    before = {name: p.clone() for name, p in model.named_parameters()}
    initialize_parameters_(model, std=model.config.weight_std, seed=3)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_block_seeds_never_change() -> None:
    # a changed seed is a changed meaning of debug.seed in every run so far; fits a signed 64-bit seed
    assert block_seed(0, "lm_head.weight", 0) == 5_284_969_920_350_695_358
    assert 0 <= block_seed(7, "x", 3) < 2**63
    assert len({block_seed(seed, name, block) for seed in (0, 1) for name in "ab" for block in (0, 1)}) == 8


def test_weights_that_a_checkpoint_has_are_not_drawn_and_show_where_it_has_them_not() -> None:
    config = replace(afmoe_config(tiny_config(), seq_len=SEQ_LEN), draws_weights=False)
    model = config.build()
    model.init_states()
    assert all(parameter.isnan().all() for parameter in model.parameters())
    assert not any(buffer.isnan().any() for buffer in model.buffers())
