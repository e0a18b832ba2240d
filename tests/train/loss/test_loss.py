"""train/loss/chunked.py against hand-worked tokens and torch's own functions, and its memory against theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torchtitan.components.loss import IGNORE_INDEX

from tests import bench_loss
from tests.train.loss.loss_cases import TOKENS, VOCABULARY, make_batch, peak_bytes, plain_loss
from train.loss.chunked import linear_loss, logit_loss_
from train.loss.config import LossConfig
from train.loss.cross_entropy import CrossEntropyZLoss
from train.loss.sums import LossSums

ATOL = 1e-6  # float32, sums over a few dozen terms of order 1
CHUNKS = [1, 4, 13, 100]  # of 13 tokens: single ones, a short last one, all, more than all


def assert_figures_are_torchs(loss: Callable[..., LossSums], z_loss_weight: float) -> None:
    figures = loss(*make_batch(), z_loss_weight=z_loss_weight)
    expected = plain_loss(*make_batch(), z_loss_weight=z_loss_weight)
    torch.testing.assert_close(figures._asdict(), expected._asdict(), atol=0, rtol=ATOL)


def assert_gradients_are_torchs(loss: Callable[..., LossSums], z_loss_weight: float) -> None:
    gradients, expected = gradients_of(loss, z_loss_weight), gradients_of(plain_loss, z_loss_weight)
    torch.testing.assert_close(gradients, expected, atol=ATOL, rtol=0)


def gradients_of(loss: Callable[..., LossSums], z_loss_weight: float) -> tuple[Tensor, ...]:
    """Of hidden states and head, in a global batch of 40 labels."""
    hidden_TD, head_VD, labels_T = make_batch()
    total = loss(hidden_TD, head_VD, labels_T, z_loss_weight=z_loss_weight).total
    return torch.autograd.grad(total / 40, (hidden_TD, head_VD))


def test_one_token_by_hand() -> None:
    # logits (ln 1, ln 3), label 0: sum of exp = 4, so p = (1/4, 3/4), ce = lse = ln 4, z = (ln 4)^2
    logits_CV = torch.tensor([[0.0, math.log(3.0)]])
    figures = logit_loss_(logits_CV, torch.tensor([0]), z_loss_weight=0.5, with_gradient=True)
    ln_4 = math.log(4)
    expected = torch.tensor([ln_4 + 0.5 * ln_4**2, ln_4, ln_4**2, ln_4, 0, math.log(3)])
    torch.testing.assert_close(torch.stack(figures), expected, atol=ATOL, rtol=0)
    # d ce = (1/4 - 1, 3/4); half of d z = ln 4 (1/4, 3/4)
    expected_CV = torch.tensor([[-0.75 + 0.25 * ln_4, 0.75 + 0.75 * ln_4]])
    torch.testing.assert_close(logits_CV, expected_CV, atol=ATOL, rtol=0)


def test_accuracy_and_largest_logit_by_hand() -> None:
    logits_CV = torch.tensor(
        [
            [2.0, 1.0, 0.0],  # label 0: the largest
            [2.0, 1.0, 0.0],  # label 1: not
            [1.0, 0.0, 1.0],  # label 0: as large as another
            [1.0, 0.0, 1.0],  # label 2: likewise
            [9.0, 0.0, 0.0],  # no label: neither the hit nor the 9 counts
        ]
    )
    labels_C = torch.tensor([0, 1, 0, 2, IGNORE_INDEX])
    figures = logit_loss_(logits_CV, labels_C, z_loss_weight=0.0, with_gradient=False)
    assert (figures.correct, figures.max_logit) == (3, 2)


def test_the_loss_of_a_label_far_ahead_keeps_its_digits() -> None:
    # ce = ln(1 + e^-10) = 4.5e-5, while logsumexp - logit = 1000 - 1000, each rounded to 6e-5
    logits_CV = torch.tensor([[1000.0, 990.0]])
    figures = logit_loss_(logits_CV, torch.tensor([0]), z_loss_weight=0.0, with_gradient=False)
    # 2^-24 / 4.5e-5: the rounding of 1 + e^-10
    assert figures.cross_entropy.item() == pytest.approx(math.log1p(math.exp(-10)), rel=2e-3)


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.3])
@pytest.mark.parametrize("chunk_tokens", CHUNKS)
def test_chunks_change_neither_figures_nor_gradients(chunk_tokens: int, z_loss_weight: float) -> None:
    loss = partial(linear_loss, chunk_tokens=chunk_tokens)
    assert_figures_are_torchs(loss, z_loss_weight)
    assert_gradients_are_torchs(loss, z_loss_weight)


def z_of_a_chunks_mean_(logits_CV: Tensor, labels_C: Tensor, *, z_loss_weight: float, with_gradient: bool) -> LossSums:
    """The mutant: z weighs as if divided by the tokens of a chunk, not of the batch: times the number of chunks."""
    weight = z_loss_weight * 13 / len(labels_C)
    return logit_loss_(logits_CV, labels_C, z_loss_weight=weight, with_gradient=with_gradient)


@pytest.mark.parametrize("claim", [assert_figures_are_torchs, assert_gradients_are_torchs])
def test_a_z_loss_that_is_scaled_by_the_number_of_chunks_is_caught(claim: Callable[..., None]) -> None:
    mutant = partial(linear_loss, logit_loss_=z_of_a_chunks_mean_)
    claim(partial(mutant, chunk_tokens=13), 0.3)  # one chunk: no fault
    with pytest.raises(AssertionError, match="not close"):
        claim(partial(mutant, chunk_tokens=4), 0.3)


def test_only_the_total_has_a_gradient() -> None:
    figures = linear_loss(*make_batch(), z_loss_weight=0.5, chunk_tokens=4)
    assert [name for name, figure in figures._asdict().items() if figure.requires_grad] == ["total"]


def test_a_second_backward_pass_is_refused() -> None:
    # the first has scaled the gradient of the head where it was
    hidden_TD, head_VD, labels_T = make_batch()
    total = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.5, chunk_tokens=4).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_bfloat16_logits_are_summed_in_float32() -> None:
    got = linear_loss(*make_batch(torch.bfloat16), z_loss_weight=0.3, chunk_tokens=4)
    expected = plain_loss(*make_batch(torch.bfloat16), z_loss_weight=0.3)
    assert {figure.dtype for figure in got} == {torch.float32}
    torch.testing.assert_close(got._asdict(), expected._asdict(), atol=0, rtol=ATOL)


def test_the_gradient_of_a_bfloat16_head_is_summed_over_chunks_in_float32() -> None:
    hidden_TD, head_VD, labels_T = make_batch(torch.bfloat16)
    hidden_TD, labels_T = hidden_TD.detach().repeat(64, 1), labels_T.repeat(64)

    def head_gradient(chunk_tokens: int) -> Tensor:
        loss = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.0, chunk_tokens=chunk_tokens)
        return torch.autograd.grad(loss.total, head_VD)[0].float()

    # 832 chunks of one token. A running sum in bfloat16 would lose terms of 2^-9 of the sum, and be off by tens of
    # percent; each term is rounded to bfloat16, and the result once: a few times 2^-9 of the largest entry.
    pieces, whole = head_gradient(1), head_gradient(len(labels_T))
    assert (pieces - whole).abs().max() < 4 * 2**-9 * whole.abs().max()


def test_without_gradients_none_are_made() -> None:
    with torch.no_grad():
        figures = linear_loss(*make_batch(), z_loss_weight=0.3, chunk_tokens=4)
    assert not figures.total.requires_grad
    assert figures == linear_loss(*make_batch(), z_loss_weight=0.3, chunk_tokens=4)


def test_a_batch_without_targets_has_loss_0_and_no_gradient() -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    figures = linear_loss(hidden_TD, head_VD, torch.full_like(labels_T, IGNORE_INDEX), z_loss_weight=1, chunk_tokens=4)
    gradients = torch.autograd.grad(figures.total, (hidden_TD, head_VD))
    assert figures == (0, 0, 0, 0, 0, -math.inf)
    assert not any(gradient.any() for gradient in gradients)


def test_the_training_loss_takes_batches() -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    loss = CrossEntropyZLoss.Config(section=LossConfig(z_loss_weight=0.5, chunk_tokens=4)).build()
    expected = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.5, chunk_tokens=4)
    assert loss(hidden_TD[None], head_VD, labels_T[None]) == expected


@pytest.mark.parametrize(
    ("settings", "vocabulary", "tokens"),
    [
        ({"chunk_mib": 4}, 8192, 128),  # 4 Mi / (4 bytes x 8 Ki): the smoke recipe's chunk
        ({"chunk_mib": 1024}, 200_192, 1280),  # 1,340 fit: ten tiles of 128
        ({"chunk_mib": 1}, 4096, 64),  # less than a tile
        ({"chunk_mib": 1}, 2**20, 1),  # a token alone takes 4 MiB
        ({"chunk_mib": 1, "chunk_tokens": 1000}, 8192, 1000),
    ],
)
def test_a_chunk_has_as_many_tokens_as_their_logits_fit(settings: dict[str, int], vocabulary: int, tokens: int) -> None:
    section = LossConfig(**settings)  # type: ignore[arg-type]
    assert section.tokens_of_chunk(vocabulary) == tokens


def test_the_training_loss_makes_chunks_of_so_many_bytes() -> None:
    hidden_TD, head_VD, labels_T = make_batch(tokens=150, vocabulary=2048)
    loss = CrossEntropyZLoss.Config(section=LossConfig(chunk_mib=1)).build()
    shapes = []

    def seen_(logits_CV: Tensor, labels_C: Tensor, **settings: Any) -> LossSums:
        shapes.append(tuple(logits_CV.shape))
        return logit_loss_(logits_CV, labels_C, **settings)

    loss.fn = seen_
    loss(hidden_TD[None], head_VD, labels_T[None])
    assert shapes == [(128, 2048), (22, 2048)]  # 1 MiB / (4 bytes x 2,048), and the rest


def test_chunks_take_a_quarter_of_the_memory_of_200192_logits_of_8192_tokens(
    tables: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    share = bench_loss.largest_share()
    tables["memory of the loss in chunks"] = capsys.readouterr().out.splitlines()
    assert share <= 0.25


def test_the_meter_sees_logits() -> None:
    with FakeTensorMode():
        plain = peak_bytes(plain_loss, width=256)
        one_chunk = peak_bytes(partial(linear_loss, chunk_tokens=TOKENS), width=256)
    assert plain > 4 * 4 * TOKENS * VOCABULARY  # logits, log-softmax and a gradient of each, float32
    assert one_chunk > 0.25 * plain  # the same code without chunks exceeds the bound


def test_memory_is_that_of_one_chunk_however_many_there_are() -> None:
    loss = partial(linear_loss, chunk_tokens=1024)
    with FakeTensorMode():
        two, sixteen = (peak_bytes(loss, width=64, tokens=tokens) for tokens in (2 * 1024, 16 * 1024))
    chunk = 4 * 1024 * VOCABULARY
    assert chunk < two <= sixteen < two + 0.01 * chunk  # hidden states, labels, and their gradients
