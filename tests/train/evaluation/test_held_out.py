"""train/evaluation/held_out.py: held-out windows are shared out without loss, and summed without bookkeeping."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchtitan.components.loss import IGNORE_INDEX

from tests.train.afmoe import build_model, random_tokens, tiny_config
from train.afmoe.decoder import moe_layers
from train.afmoe.head import Loss
from train.afmoe.tally import take_
from train.evaluation.held_out import Batch, HeldOut, share, sum_losses
from train.loss.config import LossConfig
from train.loss.cross_entropy import CrossEntropyZLoss
from train.loss.sums import LossSums

CPU = torch.device("cpu")
LOSS = CrossEntropyZLoss.Config(section=LossConfig(chunk_tokens=4)).build()


def make_windows(total: int, *, seq_len: int = 3) -> Batch:
    """Window w holds the number w everywhere, in inputs and labels."""
    numbers = torch.arange(total)[:, None].expand(total, seq_len).contiguous()
    return {"input": numbers, "positions": torch.arange(seq_len).expand(total, seq_len)}, numbers.clone()


class Uniform(nn.Module):
    """A head of zeros: the loss of every token is ln V."""

    def forward(self, tokens: Tensor, *, positions: Tensor, loss: Loss) -> LossSums:
        assert positions.shape == tokens.shape
        assert not self.training
        return loss(torch.ones(*tokens.shape, 2), torch.zeros(16, 2))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("total", [1, 7, 8, 9])
def test_ranks_cover_every_window_once(num_ranks: int, total: int) -> None:
    shares = [list(share(make_windows(total), num_ranks=num_ranks, rank=rank, batch=2)) for rank in range(num_ranks)]
    labelled = [
        int(row[0]) for microbatches in shares for _, labels in microbatches for row in labels if row[0] != IGNORE_INDEX
    ]
    assert sorted(labelled) == list(range(total))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_rank_gets_as_many_full_microbatches(num_ranks: int) -> None:
    # 9 windows: ceil(9 / (2 x ranks)) microbatches of 2 for each, or a collective would wait for ever
    shares = [list(share(make_windows(9), num_ranks=num_ranks, rank=rank, batch=2)) for rank in range(num_ranks)]
    assert {len(microbatches) for microbatches in shares} == {-(-9 // (2 * num_ranks))}
    assert {tuple(labels.shape) for microbatches in shares for _, labels in microbatches} == {(2, 3)}


def test_few_windows_still_make_microbatches_of_trainings_shape() -> None:
    # 16 windows on 4 ranks, which train on 8 rows: two ranks have them all, and the others the last one, without labels
    shares = [list(share(make_windows(16), num_ranks=4, rank=rank, batch=8)) for rank in range(4)]
    assert [[tuple(labels.shape) for _, labels in microbatches] for microbatches in shares] == [[(8, 3)]] * 4
    labelled = [int((labels != IGNORE_INDEX).sum()) for ((_, labels),) in shares]
    assert labelled == [24, 24, 0, 0]


def test_rows_that_fill_up_do_not_change_the_sums() -> None:
    few, many = (sum_losses(Uniform(), share(make_windows(5), num_ranks=1, rank=0, batch=n), LOSS, CPU) for n in (5, 8))
    torch.testing.assert_close(few, many, atol=1e-5, rtol=0)  # float32 logarithms in other chunks


def test_labels_stay_with_their_inputs() -> None:
    for inputs, labels in share(make_windows(5), num_ranks=2, rank=1, batch=2):
        is_real = labels != IGNORE_INDEX
        assert torch.equal(inputs["input"][is_real], labels[is_real])


def test_the_sum_does_not_depend_on_the_number_of_ranks() -> None:
    model = Uniform()
    for num_ranks in (1, 2, 4):
        sums = sum(
            sum_losses(model, share(make_windows(5), num_ranks=num_ranks, rank=rank, batch=2), LOSS, CPU)
            for rank in range(num_ranks)
        )
        # 5 windows of 3 tokens, each ln 16 = 2.7725887; 1e-5: 15 float32 logarithms
        assert torch.is_tensor(sums)
        torch.testing.assert_close(sums, torch.tensor([15 * 2.7725887222, 15.0]).double(), atol=1e-5, rtol=0)


def test_the_mean_is_per_source_and_over_labelled_tokens() -> None:
    inputs, labels = make_windows(4)
    labels[:, 1:] = IGNORE_INDEX
    held_out = HeldOut({"code": make_windows(3), "prose": (inputs, labels)}, loss=LOSS, batch_mesh=None, batch=2)
    losses = held_out.losses(Uniform(), CPU)
    assert list(losses) == ["code", "prose"]
    assert list(losses.values()) == pytest.approx([2.7725887222] * 2, abs=1e-6)  # float32 logarithm


def test_no_sources_no_losses() -> None:
    assert HeldOut({}, loss=LOSS, batch_mesh=None, batch=2).losses(Uniform(), CPU) == {}


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_goes_back_to_the_mode_it_was_in(is_training: bool) -> None:
    model = Uniform().train(is_training)
    sum_losses(model, [make_windows(2)], LOSS, CPU)
    assert model.training is is_training


def test_a_validation_pass_between_microbatches_counts_no_token() -> None:
    model = build_model(tiny_config(), seq_len=8)
    tokens = random_tokens(2, 8)
    windows = {"input": tokens, "positions": torch.arange(8).expand(2, 8)}, tokens
    taken = []
    for num_passes in (0, 1):
        model(tokens)
        sum_losses(model, [windows] * num_passes, LOSS, CPU)
        model(tokens)
        taken.append(take_([moe.tally for _, moe in moe_layers(model)]))
    # 2 microbatches x 16 tokens x top_k 2 in each of three layers
    assert taken[0].counts_LE.sum(-1).tolist() == [64] * 3
    assert all(map(torch.equal, *taken))
