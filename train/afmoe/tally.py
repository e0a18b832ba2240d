"""What the MoE layers of a rank count between two optimizer steps: each routed token once, whatever is recomputed.

Every step counts its tokens. Measuring the router's logits costs as much again, so only the steps that show them do.

B = batch, L = sequence, E = experts, K = experts a token visits; in LE, L and L3 the L stands for layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchtitan.protocols.module import Module

from train.afmoe.router import UNDERFLOW


class Tallies(NamedTuple):
    """The counts of all layers, since they were last taken."""

    counts_LE: Tensor
    """int64: tokens routed to each expert."""
    balance_loss_L: Tensor
    """float32: sum of the sequence-wise balance losses, before their weight."""
    router_L3: Tensor
    """float32: sums of the router's logits, of their squares, and of the confidence of each token; 0 where the step
    does not show them."""
    max_logit_L: Tensor
    """float32: the router's largest logit; -inf where the step does not show it."""


class Tally(Module):
    """The counters of one layer. No checkpoint has them: they are 0 before and after every step."""

    counts_E: Tensor
    balance_loss: Tensor
    router_3: Tensor
    max_logit: Tensor

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        num_experts: int

    def __init__(self, config: Config):
        super().__init__()
        self.watches_router = False
        """Whether the router's logits are measured in this step; set before it."""
        zeros = {
            "counts_E": torch.zeros(config.num_experts, dtype=torch.int64),
            "balance_loss": torch.zeros((), dtype=torch.float32),
            "router_3": torch.zeros(3, dtype=torch.float32),
            "max_logit": torch.zeros((), dtype=torch.float32),
        }
        for name, tensor in zeros.items():
            self.register_buffer(name, tensor, persistent=False)
        clear_([self])

    def add_(self, counts_E: Tensor, balance_loss: Tensor) -> None:
        """Adds one microbatch; nothing in a repeated forward pass, whose tokens have been counted already."""
        if not is_recomputing():
            self.counts_E += counts_E
            self.balance_loss += balance_loss

    def add_router_(self, logits_BLE: Tensor, scores_BLE: Tensor, expert_ids_BLK: Tensor) -> None:
        """Adds the measures of the router, in a step that shows them; nothing in a repeated forward pass."""
        if self.watches_router and not is_recomputing():
            confidence = routing_confidence(scores_BLE.detach(), expert_ids_BLK).sum()
            self.router_3 += torch.stack([logits_BLE.sum(), logits_BLE.square().sum(), confidence])
            torch.maximum(self.max_logit, logits_BLE.amax(), out=self.max_logit)

    def _init_self_buffers(self, *, buffer_device: torch.device | None = None) -> None:
        clear_([self])


@torch.no_grad()
def take_(tallies: Sequence[Tally]) -> Tallies:
    """Hands over what the layers have counted, and sets them back to 0."""
    taken = Tallies(
        counts_LE=torch.stack([tally.counts_E for tally in tallies]),
        balance_loss_L=torch.stack([tally.balance_loss for tally in tallies]),
        router_L3=torch.stack([tally.router_3 for tally in tallies]),
        max_logit_L=torch.stack([tally.max_logit for tally in tallies]),
    )
    clear_(tallies)
    return taken


def clear_(tallies: Sequence[Tally]) -> None:
    """Sets everything back to what it is before the first token."""
    for tally in tallies:
        for buffer in tally.buffers():
            buffer.zero_()
        tally.max_logit.fill_(-torch.inf)


def routing_confidence(scores_BLE: Tensor, expert_ids_BLK: Tensor) -> Tensor:
    """Share of a token's scores that its experts have, float32 [B, L]: K / E if all scores are equal, near 1 if the
    router is sure."""
    return scores_BLE.gather(-1, expert_ids_BLK).sum(-1) / scores_BLE.sum(-1).clamp(min=UNDERFLOW)


def is_recomputing() -> bool:
    """Whether this forward pass is activation checkpointing's second one, run from inside the backward pass.

    A compiled forward pass needs no such care: its recomputation repeats operations, not changes of buffers.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
