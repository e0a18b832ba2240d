"""train/afmoe/attention.py: what a token sees, with each backend.

flex and varlen train on CUDA only. Their wiring is tested on the CPU all the same: FlexAttention without its compiler,
which it needs for speed and gradients, and a stand-in for the kernel of varlen that does what its documentation says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torchtitan.distributed.activation_checkpoint import FullAC
from torchtitan.models.common import attention as titan
from torchtitan.models.common.attention import VarlenAttention, VarlenMetadata

from tests.train.afmoe import build_model, random_tokens, tiny_config
from train.afmoe import attention
from train.afmoe.attention import GLOBAL, LOCAL, Mask, build_masks, inner_attention, visible
from train.afmoe.decoder import Afmoe

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
]

LENGTHS = (4, 9, 3)
"""Documents of a pack; the middle one is longer than the window of 5."""
SEQ_LEN = sum(LENGTHS)
ATOL = 1e-5  # float32 logits of order 1: two orders of summation through four layers


@pytest.fixture(params=["sdpa", "flex", "varlen"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend, in a form that runs on a CPU."""
    monkeypatch.setattr(titan.FlexAttention, "_compiled_flex_attn", staticmethod(flex_attention))
    monkeypatch.setattr(attention, "create_attention_mask", create_block_mask)
    monkeypatch.setattr(titan, "varlen_attn", varlen_by_documentation)
    return request.param


def varlen_by_documentation(
    q_TNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int, **rest: Any
) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn of causal windows, document by document."""
    assert torch.equal(ends_q, ends_k)
    assert max_q == max_k == int(ends_q.diff().max())
    left, right = rest["window_size"]
    assert right == 0
    documents = []
    for start, end in zip(ends_q[:-1].tolist(), ends_q[1:].tolist(), strict=True):
        q_NLH, k_NLH, v_NLH = (x_TNH[start:end].float().transpose(0, 1) for x_TNH in (q_TNH, k_TNH, v_TNH))
        back_LL = torch.arange(end - start)[:, None] - torch.arange(end - start)
        sees_LL = (back_LL >= 0) & ((back_LL <= left) | (left < 0))
        out_NLH = F.scaled_dot_product_attention(
            q_NLH, k_NLH, v_NLH, attn_mask=sees_LL, scale=rest["scale"], enable_gqa=rest["enable_gqa"]
        )
        documents.append(out_NLH.transpose(0, 1))
    return torch.cat(documents)


def positions_of(*lengths: int) -> Tensor:
    """int64 [1, L] of one row of documents."""
    return torch.cat([torch.arange(length) for length in lengths])[None]


def make_model(backend: str, **changes: Any) -> Afmoe:
    """Local, global, local, global; GQA 2 to 1."""
    return build_model(tiny_config(attention=backend, **changes), seq_len=SEQ_LEN).eval()


@torch.no_grad()
def test_a_document_inside_a_pack_gives_the_logits_of_that_document_alone(backend: str) -> None:
    model, pack_BL = make_model(backend), random_tokens(1, SEQ_LEN)
    packed = model(pack_BL, positions=positions_of(*LENGTHS)).split(LENGTHS, dim=1)
    for document_BL, logits_BLV in zip(pack_BL.split(LENGTHS, dim=1), packed, strict=True):
        torch.testing.assert_close(logits_BLV, model(document_BL), atol=ATOL, rtol=ATOL)


@torch.no_grad()
def test_every_backend_gives_the_same_logits(backend: str) -> None:
    tokens_BL = random_tokens(2, SEQ_LEN)
    positions_BL = torch.cat([positions_of(*LENGTHS), positions_of(SEQ_LEN)])
    # without experts: a rounded score may choose another one
    expected_BLV, logits_BLV = (
        make_model(name, num_dense_layers=4)(tokens_BL, positions=positions_BL) for name in ("sdpa", backend)
    )
    # varlen rounds queries, keys and values to bfloat16: 0.013 was measured; a window of 4 or 6 is off by 1.5
    atol = 0.03 if backend == "varlen" else ATOL
    torch.testing.assert_close(logits_BLV, expected_BLV, atol=atol, rtol=0)


def watch_masks(model: Afmoe) -> dict[str, list[Mask]]:
    """A list for each kind of layer, to which every call of a layer's inner attention adds its mask."""
    seen: dict[str, list[Mask]] = {LOCAL: [], GLOBAL: []}

    def watch(layer: Any) -> None:
        def keep(module: Any, args: Any, kwargs: Any) -> None:
            seen[layer.attention.mask_key].append(kwargs["attention_masks"])

        layer.attention.inner_attention.register_forward_pre_hook(keep, with_kwargs=True)

    for layer in model.layers.values():
        watch(layer)
    return seen


def num_different(masks: list[Mask]) -> int:
    return len({id(mask) for mask in masks})


@torch.no_grad()
def test_a_batch_has_one_mask_for_each_kind_of_layer(backend: str) -> None:
    model = make_model(backend, num_layers=8)
    seen = watch_masks(model)
    for num_batches in (1, 2):
        model(random_tokens(2, SEQ_LEN))
        assert {kind: len(masks) for kind, masks in seen.items()} == {LOCAL: 4 * num_batches, GLOBAL: 4 * num_batches}
        assert {kind: num_different(masks) for kind, masks in seen.items()} == {LOCAL: num_batches, GLOBAL: num_batches}


def test_recomputation_makes_no_mask_of_its_own(tmp_path: Path) -> None:
    model = make_model("sdpa")
    seen = watch_masks(model)
    FullAC.Config().build(dump_folder=str(tmp_path)).apply(model)
    model(random_tokens(2, SEQ_LEN)).sum().backward()
    assert {kind: len(masks) for kind, masks in seen.items()} == {LOCAL: 2 * 2, GLOBAL: 2 * 2}  # forward and again
    assert {kind: num_different(masks) for kind, masks in seen.items()} == {LOCAL: 1, GLOBAL: 1}


def test_without_positions_a_row_is_one_document() -> None:
    model, tokens_BL = make_model("sdpa"), random_tokens(2, SEQ_LEN)
    positions_BL = torch.arange(SEQ_LEN).expand(2, SEQ_LEN)
    assert torch.equal(model(tokens_BL), model(tokens_BL, positions=positions_BL))


def test_who_sees_whom_by_hand() -> None:
    # two documents, of 4 and 1 tokens; a window of 2 sees itself and the token before
    masks = visible(torch.tensor([[0, 1, 2, 3, 0]]), window=2)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dense_mask_gives_the_bits_of_the_boolean_one(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q_BLNH, k_BLNH, v_BLNH = torch.randn(3, 1, SEQ_LEN, 2, 8, generator=generator).to(dtype)
    positions_BL, config = positions_of(*LENGTHS), inner_attention("sdpa", window=None)
    masks, module = build_masks(positions_BL, window=5, backend=config), config.build()
    for kind, sees_B1LL in visible(positions_BL, window=5).items():
        q_BNLH, k_BNLH, v_BNLH = (x_BLNH.transpose(1, 2) for x_BLNH in (q_BLNH, k_BLNH, v_BLNH))
        expected_BNLH = F.scaled_dot_product_attention(q_BNLH, k_BNLH, v_BNLH, attn_mask=sees_B1LL)
        assert torch.equal(module(q_BLNH, k_BLNH, v_BLNH, attention_masks=masks[kind]).transpose(1, 2), expected_BNLH)


def test_the_window_of_varlen_attention_is_what_lies_left_of_a_token() -> None:
    local, full = inner_attention("varlen", window=5), inner_attention("varlen", window=None)
    assert isinstance(local, VarlenAttention.Config)
    assert isinstance(full, VarlenAttention.Config)
    assert local.window_size == (4, 0)
    assert full.window_size == (-1, 0)  # torch's word for all before


def test_the_documents_of_varlen_attention_by_hand() -> None:
    # rows of 4 + 1 and of 5 tokens, one after the other: documents end after 4, 5 and 10
    positions_BL = torch.cat([positions_of(4, 1), positions_of(5)])
    masks = build_masks(positions_BL, window=2, backend=inner_attention("varlen", window=None))
    assert masks[LOCAL] is masks[GLOBAL]
    metadata = masks[GLOBAL]
    assert isinstance(metadata, VarlenMetadata)
    assert metadata.cu_seq_q.tolist() == [0, 4, 5, 10]
    assert metadata.max_q == 5


def test_only_global_layers_lack_positions() -> None:
    layers: Any = make_model("sdpa", num_layers=8, global_every=4).layers
    assert [block.attention.rope is None for block in layers.values()] == [False, False, False, True] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["flex", "varlen"])
def test_the_kernels_of_a_gpu_give_the_gradients_of_the_dense_mask(backend: str) -> None:
    num_tokens = 256
    tokens_BL, positions_BL = random_tokens(2, num_tokens).cuda(), positions_of(100, 156).expand(2, -1).cuda()
    gradients = []
    for name in ("sdpa", backend):
        config = tiny_config(attention=name, head_dim=64, sliding_window=50, num_dense_layers=4)
        model = build_model(config, seq_len=num_tokens).cuda()
        model(tokens_BL, positions=positions_BL).square().mean().backward()
        gradients.append(model.get_parameter("layers.0.attention.qkv_linear.wk.weight").grad)
    expected, gradient = gradients
    # bfloat16 or TF32 inside: 2^-8 of the largest entry, through four layers
    torch.testing.assert_close(gradient, expected, atol=0.05 * expected.abs().max().item(), rtol=0)
