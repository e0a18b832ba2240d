"""The whole model against transformers' AfmoeForCausalLM, an implementation that shares no code with ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.afmoe.modeling_afmoe import AfmoeTokenChoiceRouter

from tests.train.afmoe import (
    build_model,
    load_in_transformers,
    load_published_,
    random_tokens,
    tiny_config,
    to_hf,
)
from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe

pytestmark = [
    # transformers makes shared experts of width 0 where there are none
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),
]

LOGITS_RTOL = 1e-5  # of the largest logit. float32, two orders of summation, at most four layers: 1e-6 was measured
GRADIENTS_RTOL = 1e-4  # of the tensor's largest entry
SEQ_LEN = 12

BY_HAND = {
    "every expert, one layer of each kind": {"top_k": 6, "num_layers": 2},
    "only dense layers": {"num_layers": 2, "num_dense_layers": 2},
    "a window of one token": {"sliding_window": 1},
    "top 1, plain embedding": {"top_k": 1, "scale_embedding": False, "rope_theta": 100.0},
}


def random_config(seed: int) -> ModelConfig:
    """A member of the family by chance. The two widths of attention and of the stream are never the same."""
    chance = Random(seed)
    num_kv_heads, num_layers, num_experts = chance.randint(1, 3), chance.randint(1, 4), chance.randint(2, 8)
    num_heads, head_dim = num_kv_heads * chance.randint(1, 4), 2 * chance.randint(1, 6)
    return tiny_config(
        dim=chance.choice([dim for dim in (12, 20, 24, 32) if dim != num_heads * head_dim]),
        num_layers=num_layers,
        num_dense_layers=chance.randint(0, num_layers),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dense_hidden_dim=chance.randint(8, 40),
        expert_hidden_dim=4 * chance.randint(1, 5),  # grouped products want strides of 16 bytes
        num_experts=num_experts,
        top_k=chance.randint(1, num_experts),
        num_shared_experts=chance.randint(0, 2),
        route_scale=chance.uniform(0.5, 3.0),
        route_norm=chance.random() < 0.7,
        sliding_window=chance.randint(1, 2 * SEQ_LEN),
        global_every=chance.randint(1, 4),
        rope_theta=chance.choice([100.0, 10_000.0]),
        norm_eps=chance.choice([1e-5, 1e-3]),
        scale_embedding=chance.random() < 0.7,
    )


CONFIGS = {f"random {seed}": random_config(seed) for seed in range(30)}
CONFIGS |= {name: tiny_config(**changes) for name, changes in BY_HAND.items()}


def reference_gradients(reference: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in a checkpoint, gradient): transformers fuses gate and up of all experts in memory."""
    for name, parameter in reference.named_parameters():
        if parameter.grad is None or not parameter.numel():  # the selection bias; shared experts where there are none
            continue
        folder, _, kind = name.rpartition(".")
        if not folder.endswith("mlp.experts"):
            yield name, parameter.grad
            continue
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for expert_id, stacked in enumerate(parameter.grad):
            for part, matrix in zip(parts, stacked.chunk(len(parts)), strict=True):
                yield f"{folder}.{expert_id}.{part}.weight", matrix


def route_without_norm(router: Any, hidden_states: Tensor, expert_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """transformers' router always divides by the sum of the chosen scores; this one does not."""
    logits_TE = router.gate(hidden_states.flatten(0, -2)).float()
    scores_TE = logits_TE.sigmoid()
    chosen_TK = (scores_TE + expert_bias).topk(router.top_k).indices
    return logits_TE, router.route_scale * scores_TE.gather(1, chosen_TK), chosen_TK


def check_logits(model: Afmoe, reference: Any) -> tuple[Tensor, Tensor]:
    """Those of one batch, ours and theirs, after they have been found equal."""
    tokens_BL = random_tokens(2, SEQ_LEN)
    logits_BLV, expected_BLV = model(tokens_BL), reference(tokens_BL).logits
    assert expected_BLV.std() > 0.1  # the comparison sees something
    atol = LOGITS_RTOL * expected_BLV.abs().max().item()
    torch.testing.assert_close(logits_BLV, expected_BLV, atol=atol, rtol=0)
    return logits_BLV, expected_BLV


def check_gradients(model: Afmoe, reference: Any, both_logits: tuple[Tensor, Tensor]) -> None:
    """Those of every parameter, by the mean cross-entropy."""
    labels_BL = random_tokens(2, SEQ_LEN, seed=1)
    for logits_BLV in both_logits:
        F.cross_entropy(logits_BLV.flatten(0, 1), labels_BL.flatten()).backward()
    gradients = dict(to_hf((name, p.grad) for name, p in model.named_parameters() if p.grad is not None))
    expected = dict(reference_gradients(reference))
    assert gradients.keys() == expected.keys()
    # one expert a token with a normalised weight of 1: the gate's gradient is 0 but for rounding
    rounding = 1e-6 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in gradients.items():
        atol = max(GRADIENTS_RTOL * expected[name].abs().max().item(), rounding)
        torch.testing.assert_close(gradient, expected[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_logits_and_gradients_equal_transformers_with_weights_carried_both_ways(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not config.route_norm:
        monkeypatch.setattr(AfmoeTokenChoiceRouter, "forward", route_without_norm)
    model = build_model(config, seq_len=SEQ_LEN)
    reference, _ = load_in_transformers(model, config, tmp_path, seq_len=SEQ_LEN)
    check_gradients(model, reference, check_logits(model, reference))

    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    reference.save_pretrained(tmp_path)
    load_published_(model, load_file(tmp_path / "model.safetensors"))
    check_logits(model, reference)


def test_the_random_configurations_cover_the_switches_of_the_family() -> None:
    sample = [random_config(seed) for seed in range(30)]
    assert {0, 1, 2} <= {c.num_dense_layers for c in sample}
    assert any(c.num_dense_layers == c.num_layers for c in sample)
    assert {c.sliding_window < SEQ_LEN for c in sample} == {True, False}
    assert {c.num_heads // c.num_kv_heads for c in sample} == {1, 2, 3, 4}
    assert {c.num_heads * c.head_dim > c.dim for c in sample} == {True, False}
    assert {c.num_shared_experts for c in sample if c.num_dense_layers < c.num_layers} == {0, 1, 2}
    assert {c.route_norm for c in sample if c.num_dense_layers < c.num_layers} == {True, False}
    assert any(c.top_k == 1 for c in sample)
    assert any(c.top_k == c.num_experts for c in sample)
    assert {c.is_global(layer_id) for c in sample for layer_id in range(c.num_layers)} == {True, False}
