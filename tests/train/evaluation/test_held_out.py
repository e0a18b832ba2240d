"""train/evaluation/held_out.py: held-out windows are shared out without loss, and summed without bookkeeping."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchtitan.components.loss import IGNORE_INDEX

from data_pipelines.batches.loader import Batch
from tests.train.afmoe import build_model, random_tokens, tiny_config
from train.afmoe.decoder import moe_layers
from train.afmoe.head import Loss
from train.afmoe.tally import take_
from train.evaluation.held_out import HeldOut, share, sum_losses
from train.loss.config import LossConfig
from train.loss.cross_entropy import CrossEntropyZLoss
from train.loss.sums import LossSums

CPU = torch.device("cpu")
LOSS = CrossEntropyZLoss.Config(section=LossConfig(chunk_tokens=4)).build()


class Numbered:
    """Window w holds the number w everywhere, in inputs and labels."""

    def __init__(self, total: int, *, seq_len: int = 3, labelled: int | None = None):
        """labelled: tokens at the start of each window; None for all."""
        self._total, self._seq_len, self._labelled = total, seq_len, labelled
        self.rows: list[int] = []
        """That were read."""

    def __len__(self) -> int:
        return self._total

    def read(self, rows: list[int]) -> Batch:
        self.rows += rows
        numbers = torch.tensor(rows)[:, None].expand(len(rows), self._seq_len).contiguous()
        labels = numbers.clone()
        labels[:, self._seq_len if self._labelled is None else self._labelled :] = IGNORE_INDEX
        return {"input": numbers, "positions": torch.arange(self._seq_len).expand(len(rows), self._seq_len)}, labels


class Uniform(nn.Module):
    """A head of zeros: the loss of every token is ln V."""

    def forward(self, tokens: Tensor, *, positions: Tensor, loss: Loss) -> LossSums:
        assert positions.shape == tokens.shape
        assert not self.training
        return loss(torch.ones(*tokens.shape, 2), torch.zeros(16, 2))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("total", [1, 7, 8, 9])
def test_ranks_cover_every_window_once(num_ranks: int, total: int) -> None:
    shares = [list(share(Numbered(total), num_ranks=num_ranks, rank=rank, batch=2)) for rank in range(num_ranks)]
    labelled = [
        int(row[0]) for microbatches in shares for _, labels in microbatches for row in labels if row[0] != IGNORE_INDEX
    ]
    assert sorted(labelled) == list(range(total))


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 16])
def test_a_rank_reads_its_own_windows_and_what_fills_them_up(num_ranks: int) -> None:
    read = []
    for rank in range(num_ranks):
        windows = Numbered(9)
        list(share(windows, num_ranks=num_ranks, rank=rank, batch=2))
        read.append(windows.rows)
    rows = sorted(row for rows in read for row in rows)
    assert rows == [*range(9), *[8] * (len(rows) - 9)]
    assert {len(rows) for rows in read} == {len(rows) // num_ranks}


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_rank_gets_as_many_full_microbatches(num_ranks: int) -> None:
    # 9 windows: ceil(9 / (2 x ranks)) microbatches of 2 for each, or a collective would wait for ever
    shares = [list(share(Numbered(9), num_ranks=num_ranks, rank=rank, batch=2)) for rank in range(num_ranks)]
    assert {len(microbatches) for microbatches in shares} == {-(-9 // (2 * num_ranks))}
    assert {tuple(labels.shape) for microbatches in shares for _, labels in microbatches} == {(2, 3)}


def test_few_windows_still_make_microbatches_of_trainings_shape() -> None:
    # 16 windows on 4 ranks, which train on 8 rows: two ranks have them all, and the others the last one, without labels
    shares = [list(share(Numbered(16), num_ranks=4, rank=rank, batch=8)) for rank in range(4)]
    assert [[tuple(labels.shape) for _, labels in microbatches] for microbatches in shares] == [[(8, 3)]] * 4
    labelled = [int((labels != IGNORE_INDEX).sum()) for ((_, labels),) in shares]
    assert labelled == [24, 24, 0, 0]


def test_rows_that_fill_up_do_not_change_the_sums() -> None:
    few, many = (sum_losses(Uniform(), share(Numbered(5), num_ranks=1, rank=0, batch=n), LOSS, CPU) for n in (5, 8))
    torch.testing.assert_close(few, many, atol=1e-5, rtol=0)  # float32 logarithms in other chunks


def test_labels_stay_with_their_inputs() -> None:
    for inputs, labels in share(Numbered(5), num_ranks=2, rank=1, batch=2):
        is_real = labels != IGNORE_INDEX
        assert torch.equal(inputs["input"][is_real], labels[is_real])


def test_the_sum_does_not_depend_on_the_number_of_ranks() -> None:
    model = Uniform()
    for num_ranks in (1, 2, 4):
        sums = sum(
            sum_losses(model, share(Numbered(5), num_ranks=num_ranks, rank=rank, batch=2), LOSS, CPU)
            for rank in range(num_ranks)
        )
        # 5 windows of 3 tokens, each ln 16 = 2.7725887; 1e-5: 15 float32 logarithms
        assert torch.is_tensor(sums)
        torch.testing.assert_close(sums, torch.tensor([15 * 2.7725887222, 15.0]).double(), atol=1e-5, rtol=0)


def test_the_mean_is_per_source_and_over_labelled_tokens() -> None:
    held_out = HeldOut({"code": Numbered(3), "prose": Numbered(4, labelled=1)}, loss=LOSS, batch_mesh=None, batch=2)
    losses = held_out.losses(Uniform(), CPU)
    assert list(losses) == ["code", "prose"]
    assert list(losses.values()) == pytest.approx([2.7725887222] * 2, abs=1e-6)  # float32 logarithm


def test_no_sources_no_losses() -> None:
    assert HeldOut({}, loss=LOSS, batch_mesh=None, batch=2).losses(Uniform(), CPU) == {}


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_goes_back_to_the_mode_it_was_in(is_training: bool) -> None:
    model = Uniform().train(is_training)
    sum_losses(model, [Numbered(2).read([0, 1])], LOSS, CPU)
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
