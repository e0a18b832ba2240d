"""Known failures of MoE training, each patched into the real program by one function, in every rank before it starts.

They are patched in at the methods and functions that count, balance and weigh, where faults of their kind would be.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from tests.train.mesh_runs import CHUNK_TOKENS

EXPERT_RANKS, MICROBATCHES = 2, 4
"""Of the combinations that these faults are patched into."""


def scale_expert_gradients() -> None:
    """Summed over the expert ranks where each has the whole sum already."""
    from train.afmoe.moe import Experts

    grouped_mm = Experts._grouped_mm

    def scaled(self: Any, *, A: Tensor, B_t: Tensor, offs: Tensor) -> Tensor:
        B_t.register_hook(lambda grad: grad * EXPERT_RANKS)
        return grouped_mm(self, A=A, B_t=B_t, offs=offs)

    Experts._grouped_mm = scaled


def count_recomputed_tokens() -> None:
    from train.afmoe import tally

    tally.is_recomputing = lambda: False


def lose_the_counts_of_other_ranks() -> None:
    """They are not all-reduced, but taken from rank 0."""
    from train.loop import trainer

    take_ = trainer.take_

    def take_on_rank_0(tallies: Any) -> Any:
        taken = take_(tallies)
        taken.counts_LE.mul_(os.environ["RANK"] == "0")
        return taken

    trainer.take_ = take_on_rank_0


def balance_by_the_counts_of_one_rank() -> None:
    """Each rank follows its own, so that no sum is wrong."""
    from train.balance.balancer import Balancer
    from train.loop import trainer

    take_, update_biases_ = trainer.take_, Balancer.update_biases_
    own: list[Tensor] = []

    def take_and_keep(tallies: Any) -> Any:
        taken = take_(tallies)
        own[:] = [taken.counts_LE]
        return taken

    trainer.take_ = take_and_keep
    Balancer.update_biases_ = lambda self, counts_LE: update_biases_(self, own[0])


def update_biases_per_microbatch() -> None:
    from train.afmoe import moe
    from train.balance.balancer import Balancer
    from train.loop.trainer import Trainer

    count_tokens, update_biases_ = moe.count_tokens, Balancer.update_biases_
    forward_backward_step = Trainer.forward_backward_step
    counted: list[Tensor] = []

    def count_and_keep(expert_ids_BLK: Tensor, *, num_experts: int) -> Tensor:
        counts_BE = count_tokens(expert_ids_BLK, num_experts=num_experts)
        counted.append(counts_BE.sum(0))
        return counts_BE

    def step_and_update(self: Trainer, **microbatch: Any) -> Tensor:
        counted.clear()
        sums = forward_backward_step(self, **microbatch)
        update_biases_(self.balancer, torch.stack(counted))
        return sums

    moe.count_tokens = count_and_keep
    Trainer.forward_backward_step = step_and_update
    Balancer.update_biases_ = lambda self, counts_LE: None


def scale_z_loss_by_chunks() -> None:
    """Weighted in every chunk as if it were the only one."""
    from train.loss.cross_entropy import CrossEntropyZLoss
    from train.loss.sums import LossSums

    call = CrossEntropyZLoss.__call__

    def scaled(self: CrossEntropyZLoss, hidden_BLD: Tensor, head_VD: Tensor, labels_BL: Tensor) -> LossSums:
        weight = self.z_loss_weight
        self.z_loss_weight = weight * math.ceil(labels_BL.numel() / CHUNK_TOKENS)
        sums = call(self, hidden_BLD, head_VD, labels_BL)
        self.z_loss_weight = weight
        return sums

    CrossEntropyZLoss.__call__ = scaled


def scale_balance_loss_by_microbatches() -> None:
    """The mean over the sequences of a microbatch, summed over microbatches."""
    from train.balance.balancer import Balancer

    weigh_sequences = Balancer.weigh_sequences
    Balancer.weigh_sequences = lambda self, num_sequences: weigh_sequences(self, num_sequences // MICROBATCHES)
