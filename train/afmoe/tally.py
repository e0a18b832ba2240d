"""What the MoE layers of a rank count between two optimizer steps: each routed token once, under any recomputation.

Counts are of every step; what the router's logits look like costs as much again, and is of the steps that show it.

B = batch, L = sequence, E = experts, K = experts a token visits; where layers are stacked, the L in front is layers.
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
    """Of all layers, since they were last taken."""

    counts_LE: Tensor
    """int64: tokens routed to each expert."""
    balance_loss_L: Tensor
    """float32: sum of the sequence-wise balance losses, before their weight."""
    router_L3: Tensor
    """float32: sums of the router's logits, of their squares, and of the confidence of each token; or 0."""
    max_logit_L: Tensor
    """float32: the router's largest logit; or -inf."""


class Tally(Module):
    """The counters of one layer. They are in no checkpoint: a step begins and ends with them at 0."""

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
        """Whether the router's logits are added up; set before a step."""
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
        """Adds one microbatch; nothing where the forward pass is a repeated one, whose tokens are counted already."""
        if not is_recomputing():
            self.counts_E += counts_E
            self.balance_loss += balance_loss

    def add_router_(self, logits_BLE: Tensor, scores_BLE: Tensor, expert_ids_BLK: Tensor) -> None:
        """Adds what the router made of one microbatch, in a step that shows it; nothing in a repeated forward pass."""
        if self.watches_router and not is_recomputing():
            confidence = routing_confidence(scores_BLE.detach(), expert_ids_BLK).sum()
            self.router_3 += torch.stack([logits_BLE.sum(), logits_BLE.square().sum(), confidence])
            torch.maximum(self.max_logit, logits_BLE.amax(), out=self.max_logit)

    def _init_self_buffers(self, *, buffer_device: torch.device | None = None) -> None:
        clear_([self])


@torch.no_grad()
def take_(tallies: Sequence[Tally]) -> Tallies:
    """What the layers have counted; they start anew."""
    taken = Tallies(
        counts_LE=torch.stack([tally.counts_E for tally in tallies]),
        balance_loss_L=torch.stack([tally.balance_loss for tally in tallies]),
        router_L3=torch.stack([tally.router_3 for tally in tallies]),
        max_logit_L=torch.stack([tally.max_logit for tally in tallies]),
    )
    clear_(tallies)
    return taken


def clear_(tallies: Sequence[Tally]) -> None:
    """Nothing has been counted."""
    for tally in tallies:
        for buffer in tally.buffers():
            buffer.zero_()
        tally.max_logit.fill_(-torch.inf)


def routing_confidence(scores_BLE: Tensor, expert_ids_BLK: Tensor) -> Tensor:
    """Share of a token's scores that its experts have, float32 [B, L]: K / E where all are alike, towards 1 if sure."""
    return scores_BLE.gather(-1, expert_ids_BLK).sum(-1) / scores_BLE.sum(-1).clamp(min=UNDERFLOW)


def is_recomputing() -> bool:
    """Whether this forward pass is activation checkpointing's second one, run from inside the backward pass.

    A compiled forward pass adds once by itself: its recomputation replays operations, not changes of buffers.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
