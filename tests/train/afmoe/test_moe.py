"""train/afmoe/moe.py: who visits which expert, what is counted, and where the balance loss pulls."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchtitan.config import ParallelismConfig
from torchtitan.distributed.activation_checkpoint import FullAC
from torchtitan.models.common.token_dispatcher import (
    AllToAllTokenDispatcher,
    DeepEPTokenDispatcher,
    HybridEPTokenDispatcher,
)

from tests.train.afmoe import build_model, random_tokens, tiny_config
from train.afmoe.decoder import Afmoe, moe_layers
from train.afmoe.moe import MoE, attach_balance_loss, count_tokens
from train.afmoe.spec import model_spec
from train.afmoe.tally import routing_confidence, take_

ATOL = 1e-6  # float32 at values of order 1
B, L, D, E, K = 2, 7, 24, 6, 2  # of tiny_config


def make_moe() -> MoE:
    model = build_model(tiny_config(), seq_len=L)
    return next(moe for _, moe in moe_layers(model))


def make_input() -> Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(0))


def gradients(moe: MoE) -> dict[str, Tensor]:
    """Takes them: the next backward pass starts anew."""
    taken = {name: p.grad for name, p in moe.named_parameters() if p.grad is not None}
    moe.zero_grad()
    return taken


def dense_reference(moe: MoE, x_D: Tensor) -> Tensor:
    """Every token by itself: chosen by score plus bias, weighted by score alone, normalised, scaled by 1.5."""
    score_E = torch.sigmoid(moe.router.gate.weight @ x_D)
    chosen_K = torch.topk(score_E + moe.expert_bias_E, K).indices
    weight_K = 1.5 * score_E[chosen_K] / score_E[chosen_K].sum()
    experts = moe.routed_experts.inner_experts
    out_D = torch.zeros(D)
    for weight, e in zip(weight_K, chosen_K.tolist(), strict=True):
        hidden_F = F.silu(experts.w1_EFD[e] @ x_D) * (experts.w3_EFD[e] @ x_D)
        out_D = out_D + weight * (experts.w2_EDF[e] @ hidden_F)
    shared = moe.shared_experts
    assert shared is not None
    return out_D + shared.w2.weight @ (F.silu(shared.w1.weight @ x_D) * (shared.w3.weight @ x_D))


def test_each_token_visits_its_best_biased_experts_weighted_by_unbiased_scores() -> None:
    moe, x_BLD = make_moe(), make_input()
    expected_TD = torch.stack([dense_reference(moe, x_D) for x_D in x_BLD.flatten(0, 1)])
    torch.testing.assert_close(moe(x_BLD), expected_TD.unflatten(0, (B, L)), atol=ATOL, rtol=ATOL)


def test_a_large_bias_sends_every_token_to_its_expert() -> None:
    moe = make_moe()
    moe.expert_bias_E[4] += 10
    moe(make_input())
    assert moe.tally.counts_E[4] == B * L
    assert moe.tally.counts_E.sum() == B * L * K


def test_the_gate_computes_in_float32_whatever_comes_in() -> None:
    moe = make_moe().bfloat16()
    scores_BLE = moe.router.gate(make_input().bfloat16())
    assert scores_BLE.dtype == torch.float32


def test_experts_compute_in_the_dtype_of_their_input() -> None:
    assert make_moe()(make_input()).dtype == torch.float32


def test_counts_by_hand() -> None:
    ids_BLK = torch.tensor([[[0, 1], [1, 3]], [[3, 2], [3, 2]]])
    assert count_tokens(ids_BLK, num_experts=4).tolist() == [[1, 2, 0, 1], [0, 0, 2, 2]]


@pytest.mark.parametrize("is_watched", [True, False])
def test_what_the_router_made_of_its_tokens_is_added_up_where_it_is_watched(is_watched: bool) -> None:
    moe, x_BLD = make_moe(), make_input()
    moe.tally.watches_router = is_watched
    for _ in range(2):
        moe(x_BLD)
    tallies = take_([moe.tally])
    logits_TE = x_BLD.flatten(0, 1) @ moe.router.gate.weight.T
    scores_TE = torch.sigmoid(logits_TE)
    chosen_TK = torch.topk(scores_TE + moe.expert_bias_E, K).indices
    confidence = (scores_TE.gather(1, chosen_TK).sum(1) / scores_TE.sum(1)).sum()
    sums = torch.stack([logits_TE.sum(), (logits_TE**2).sum(), confidence])
    expected = (2 * sums, logits_TE.max()) if is_watched else (torch.zeros(3), torch.tensor(-torch.inf))
    torch.testing.assert_close(
        (tallies.router_L3[0], tallies.max_logit_L[0]), expected, atol=0, rtol=1e-5
    )  # sums of 84


def test_a_compiled_forward_pass_counts_too() -> None:
    tally = make_moe().tally
    tally.watches_router = True
    scores_BLE = torch.rand(B, L, E)
    ids_BLK = scores_BLE.topk(K).indices

    def count() -> None:
        tally.add_(count_tokens(ids_BLK, num_experts=E).sum(0), torch.ones(()))
        tally.add_router_(scores_BLE.logit(), scores_BLE, ids_BLK)

    torch.compile(count, backend="eager", fullgraph=True)()  # as the engine compiles a layer: whole
    assert tally.counts_E.sum() == B * L * K
    assert tally.router_3[2] > 0


def test_scores_that_all_underflow_are_no_nan() -> None:
    scores_BLE = torch.zeros(1, 4, 4)  # sigmoid of logits below -104
    assert balance_loss(scores_BLE, [[4, 0, 0, 0]], top_k=1) == 0
    assert not routing_confidence(scores_BLE, torch.zeros(1, 4, 1, dtype=torch.int64)).isnan().any()


def test_counts_add_up_over_microbatches() -> None:
    moe, x_BLD = make_moe(), make_input()
    moe(x_BLD)
    once_E = moe.tally.counts_E.clone()
    moe(x_BLD)
    assert torch.equal(moe.tally.counts_E, 2 * once_E)


def test_evaluation_counts_nothing() -> None:
    moe = make_moe().eval()
    moe(make_input())
    assert not moe.tally.counts_E.any()
    assert moe.tally.balance_loss == 0


def test_recomputation_counts_once_and_gives_the_same_gradients() -> None:
    x_BLD = make_input().requires_grad_()
    taken = []
    for recompute in (False, True):
        moe = make_moe()
        moe.balance_loss_weight = 0.1
        moe.tally.watches_router = True
        out_BLD = checkpoint(moe, x_BLD, use_reentrant=False) if recompute else moe(x_BLD)
        assert isinstance(out_BLD, Tensor)
        out_BLD.square().sum().backward()
        taken.append((take_([moe.tally]), gradients(moe)))
    (tallies, plain), (recomputed_tallies, recomputed) = taken
    assert all(map(torch.equal, tallies, recomputed_tallies))
    assert tallies.counts_LE.sum() == B * L * K
    assert tallies.balance_loss_L > 0
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_the_engines_activation_checkpointing_counts_every_token_once(tmp_path: Path) -> None:
    model = build_model(tiny_config(), seq_len=L)
    FullAC.Config().build(dump_folder=str(tmp_path)).apply(model)
    model(random_tokens(B, L)).sum().backward()
    assert [int(moe.tally.counts_E.sum()) for _, moe in moe_layers(model)] == [B * L * K] * 3


def balance_loss(scores_BLE: Tensor, counts_BE: list[list[int]], *, top_k: int) -> Tensor:
    """Its gradient hangs on routing weights that are not used otherwise."""
    unused_BLK = torch.zeros(*scores_BLE.shape[:2], top_k)
    return attach_balance_loss(unused_BLK, scores_BLE, torch.tensor(counts_BE), top_k=top_k, weight=1.0)[1]


def plain_balance_loss(scores_BLE: Tensor, counts_BE: Tensor, *, top_k: int) -> Tensor:
    """[B], as the paper writes it; its gradient is autograd's."""
    length, num_experts = scores_BLE.shape[1:]
    f_BE = num_experts / (top_k * length) * counts_BE
    P_BE = (scores_BLE / scores_BLE.sum(-1, keepdim=True)).mean(1)
    return (f_BE * P_BE).sum(-1)


def test_the_balance_loss_of_uniform_routing_is_1() -> None:
    # 4 tokens, K = 1, each to another of 4 experts: f_i = 4 / (1 x 4) x 1 = 1, and shares sum to 1 whatever they are
    scores_BLE = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    assert balance_loss(scores_BLE, [[1, 1, 1, 1]], top_k=1).item() == pytest.approx(1.0, abs=ATOL)
    # equal scores: P_i = 1/4, and f sums to 4 whatever the counts are
    even_BLE = torch.full((1, 4, 4), 0.3)
    assert balance_loss(even_BLE, [[3, 1, 0, 0]], top_k=1).item() == pytest.approx(1.0, abs=ATOL)
    # two experts a token: 4 tokens make 8 visits, f = 4 / (2 x 4) x (4, 4, 0, 0), which sums to 4 too
    assert balance_loss(even_BLE, [[4, 4, 0, 0]], top_k=2).item() == pytest.approx(1.0, abs=ATOL)


def test_the_balance_loss_by_hand() -> None:
    # two experts, L = 2, K = 1. Shares (0.75, 0.25) and (0.5, 0.5): P = (0.625, 0.375).
    # Counts (2, 0): f = 2 / (1 x 2) x (2, 0) = (2, 0), loss 1.25. Counts (0, 2): 0.75. Two sequences: their sum.
    scores_LE = torch.tensor([[0.6, 0.2], [0.4, 0.4]])
    for counts_BE, expected in (([[2, 0]], 1.25), ([[0, 2]], 0.75), ([[2, 0], [2, 0]], 2.5)):
        loss = balance_loss(torch.stack([scores_LE] * len(counts_BE)), counts_BE, top_k=1)
        assert loss.item() == pytest.approx(expected, abs=ATOL)


def test_the_balance_loss_pulls_scores_down_where_the_load_is() -> None:
    # loss = 2 P_0 = s_00 / (s_00 + s_01) + s_10 / (s_10 + s_11). With s = (0.6, 0.2): d/ds_00 = 0.2 / 0.64 = 0.3125,
    # d/ds_01 = -0.6 / 0.64 = -0.9375; with s = (0.4, 0.4): 0.4 / 0.64 = 0.625 and -0.625
    scores_BLE = torch.tensor([[[0.6, 0.2], [0.4, 0.4]]], requires_grad=True)
    weights_BLK, _ = attach_balance_loss(torch.zeros(1, 2, 1), scores_BLE, torch.tensor([[2, 0]]), top_k=1, weight=1.0)
    weights_BLK.sum().backward()
    assert scores_BLE.grad is not None
    expected_BLE = torch.tensor([[[0.3125, -0.9375], [0.625, -0.625]]])
    torch.testing.assert_close(scores_BLE.grad, expected_BLE, atol=ATOL, rtol=0)


@pytest.mark.parametrize("weight", [1e-4, 1.0])
def test_the_gradient_in_closed_form_is_autograds(weight: float) -> None:
    moe, x_BLD = make_moe(), make_input()
    weights_BLK, expert_ids_BLK, scores_BLE, _ = moe.router(x_BLD, moe.expert_bias_E)
    counts_BE = count_tokens(expert_ids_BLK, num_experts=E)
    plain_B = plain_balance_loss(scores_BLE, counts_BE, top_k=K)
    expected = torch.autograd.grad((weight * plain_B).sum(), scores_BLE, retain_graph=True)
    scores_BLE = scores_BLE.detach().requires_grad_()
    attached_BLK, loss = attach_balance_loss(weights_BLK.detach(), scores_BLE, counts_BE, top_k=K, weight=weight)
    torch.testing.assert_close(loss, plain_B.sum(), atol=ATOL, rtol=0)
    got = torch.autograd.grad(attached_BLK.sum(), scores_BLE)
    torch.testing.assert_close(got, expected, atol=weight * ATOL, rtol=0)


def test_without_a_weight_no_gradient_is_made() -> None:
    scores_BLE = torch.rand(1, 4, 4).requires_grad_()
    counts_BE = torch.tensor([[4, 0, 0, 0]])
    weights_BLK, loss = attach_balance_loss(torch.zeros(1, 4, 1), scores_BLE, counts_BE, top_k=1, weight=0.0)
    assert loss > 0
    assert torch.autograd.grad(weights_BLK.sum(), scores_BLE, allow_unused=True) == (None,)


def test_the_gradient_of_the_balance_loss_reaches_the_gate_only() -> None:
    alpha, x_BLD, moe = 0.1, make_input(), make_moe()
    moe(x_BLD).sum().backward()
    without = gradients(moe)
    moe.balance_loss_weight = alpha
    moe(x_BLD).sum().backward()
    changed = gradients(moe)

    _, expert_ids_BLK, scores_BLE, _ = moe.router(x_BLD, moe.expert_bias_E)
    counts_BE = count_tokens(expert_ids_BLK, num_experts=E)
    (alpha * plain_balance_loss(scores_BLE, counts_BE, top_k=K).sum()).backward()
    added = gradients(moe)
    assert added.keys() == {"router.gate.weight"}
    expected = without["router.gate.weight"] + added["router.gate.weight"]
    torch.testing.assert_close(changed["router.gate.weight"], expected, atol=ATOL, rtol=ATOL)
    assert added["router.gate.weight"].abs().max() > 1e-4  # the comparison sees something
    for name in without.keys() - added.keys():
        assert torch.equal(changed[name], without[name]), name


def test_the_output_does_not_see_the_balance_loss() -> None:
    moe, x_BLD = make_moe(), make_input()
    without_BLD = moe(x_BLD)
    moe.balance_loss_weight = 0.1
    assert torch.equal(moe(x_BLD), without_BLD)


def test_the_state_holds_what_the_rule_moves_and_no_counts() -> None:
    state = make_moe().state_dict()
    assert {"expert_bias_E", "bias_momentum_E"} <= state.keys()
    assert not any(name.startswith("tally") for name in state)


@pytest.mark.parametrize(
    ("name", "dispatcher", "capacity"),
    [
        ("standard", AllToAllTokenDispatcher, None),
        ("deepep", DeepEPTokenDispatcher, None),
        ("hybridep", HybridEPTokenDispatcher, None),
        ("hybridep_worst_case", HybridEPTokenDispatcher, 1.0),  # room for all: nothing is dropped
    ],
)
def test_training_gets_the_dispatcher_of_the_configuration_with_room_for_its_batch(
    name: Any, dispatcher: type, capacity: float | None
) -> None:
    config = model_spec(tiny_config(dispatcher=name), seq_len=L, draws_weights=True).model
    assert isinstance(config, Afmoe.Config)
    training = SimpleNamespace(seq_len=L, local_batch_size=B)
    parallelism = ParallelismConfig(expert_parallel_degree=2, spmd_backend="partial_dtensor")
    config.update_from_config(
        config=SimpleNamespace(parallelism=parallelism, training=training, debug=SimpleNamespace(seed=0))
    )
    found = [layer.moe.routed_experts.token_dispatcher for layer in config.layers if layer.moe is not None]
    assert {type(one) for one in found} == {dispatcher.Config}  # type: ignore[attr-defined]
    assert {getattr(one, "non_blocking_capacity_factor", None) for one in found} == {capacity}
    if name != "standard":
        rooms = {(getattr(one, "hidden_dim", 0), getattr(one, "num_max_tokens_per_rank", 0)) for one in found}
        assert rooms == {(D, B * L)}


def test_a_model_that_is_only_looked_at_needs_no_dispatchers_package() -> None:
    build_model(tiny_config(dispatcher="deepep"), seq_len=L)
