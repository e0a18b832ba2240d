"""The whole model against transformers' AfmoeForCausalLM, an implementation that shares no code with ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.model import build_model, load_in_transformers, random_tokens, tiny_config
from train.model.attention import GLOBAL, LOCAL, dense_masks
from train.model.hf import to_hf

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")  # torchtitan's router; see train/cpu.py

ATOL = 1e-5  # float32: two orders of summation through four layers
SEQ_LEN = 16

CONFIGS = {
    "smoke-like": {},
    "one key-value head": {"num_kv_heads": 1, "head_dim": 10, "dim": 20},
    "as many key-value heads as heads": {"num_kv_heads": 4, "sliding_window": 3},
    "three local layers to a global one": {"num_layers": 5, "global_every": 4, "num_dense_layers": 2},
    "no dense layer, two shared experts": {"num_dense_layers": 0, "num_shared_experts": 2, "num_layers": 2},
    "top 1, plain embedding": {"top_k": 1, "scale_embedding": False, "rope_theta": 100.0},
    "all experts at once, long window": {"top_k": 6, "sliding_window": 64, "norm_eps": 1e-3},
}


def reference_gradients(reference: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in a checkpoint, gradient): transformers fuses gate and up of all experts in memory."""
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:  # the selection bias
            continue
        folder, _, kind = name.rpartition(".")
        if not folder.endswith("mlp.experts"):
            yield name, parameter.grad
            continue
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for expert_id, stacked in enumerate(parameter.grad):
            for part, matrix in zip(parts, stacked.chunk(len(parts)), strict=True):
                yield f"{folder}.{expert_id}.{part}.weight", matrix


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_logits_and_gradients_equal_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(**changes)
    model = build_model(config, seq_len=SEQ_LEN)
    reference, _ = load_in_transformers(model, config, tmp_path, seq_len=SEQ_LEN)
    tokens_BL, labels_BL = random_tokens(2, SEQ_LEN), random_tokens(2, SEQ_LEN, seed=1)

    logits_BLV, expected_BLV = model(tokens_BL), reference(tokens_BL).logits
    assert expected_BLV.std() > 0.1  # the comparison sees something
    torch.testing.assert_close(logits_BLV, expected_BLV, atol=ATOL, rtol=ATOL)

    for output_BLV in (logits_BLV, expected_BLV):
        F.cross_entropy(output_BLV.flatten(0, 1), labels_BL.flatten()).backward()
    gradients = dict(to_hf((name, p.grad) for name, p in model.named_parameters() if p.grad is not None))
    expected = dict(reference_gradients(reference))
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=ATOL, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_a_document_inside_a_pack_gives_the_logits_of_that_document_alone() -> None:
    model = build_model(tiny_config(), seq_len=SEQ_LEN).eval()
    lengths = (4, 9, 3)  # the middle one is longer than the window of 5
    pack_BL = random_tokens(1, sum(lengths))
    positions_BL = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = model(pack_BL, positions=positions_BL).split(lengths, dim=1)
    for document_BL, logits_BLV in zip(pack_BL.split(lengths, dim=1), packed, strict=True):
        torch.testing.assert_close(logits_BLV, model(document_BL), atol=ATOL, rtol=ATOL)


def test_without_positions_a_row_is_one_document() -> None:
    model = build_model(tiny_config(), seq_len=SEQ_LEN).eval()
    tokens_BL = random_tokens(2, SEQ_LEN)
    positions_BL = torch.arange(SEQ_LEN).expand(2, SEQ_LEN)
    assert torch.equal(model(tokens_BL), model(tokens_BL, positions=positions_BL))


def test_masks_by_hand() -> None:
    # two documents, of 4 and 1 tokens; a window of 2 sees itself and the token before
    masks = dense_masks(torch.tensor([[0, 1, 2, 3, 0]]), window=2)
    assert masks[GLOBAL][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert masks[LOCAL][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_only_global_layers_lack_positions() -> None:
    layers: Any = build_model(tiny_config(num_layers=8, global_every=4), seq_len=SEQ_LEN).layers
    assert [block.attention.rope is None for block in layers.values()] == [False, False, False, True] * 2
