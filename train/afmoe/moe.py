"""The mixture of experts of one layer, and what it counts. Puts torchtitan's dispatcher and experts behind our router.

B = batch, L = sequence, D = model width, E = experts, K = experts a token visits, F = hidden width of an expert,
R = tokens routed to the experts of this rank.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchtitan.models.common.feed_forward import FeedForward
from torchtitan.models.common.moe import GroupedExperts, RoutedExperts
from torchtitan.protocols.module import Module

from train.afmoe.router import UNDERFLOW, Router
from train.afmoe.tally import Tally


class Experts(GroupedExperts):
    """Routed experts in the dtype of their input; torchtitan's cast to bfloat16 whatever the training dtype."""

    @dataclass(kw_only=True, slots=True)
    class Config(GroupedExperts.Config):
        pass

    def forward(self, x_RD: Tensor, num_tokens_per_expert_E: Tensor) -> Tensor:
        ends_E = torch.cumsum(num_tokens_per_expert_E, dim=0, dtype=torch.int32)
        gate_RF = self._project(x_RD, self.w1_EFD, ends_E)
        up_RF = self._project(x_RD, self.w3_EFD, ends_E)
        return self._project(F.silu(gate_RF) * up_RF, self.w2_EDF, ends_E)

    def _project(self, x: Tensor, weight: Tensor, ends_E: Tensor) -> Tensor:
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        return self._grouped_mm(A=x, B_t=local.to(x.dtype).transpose(-2, -1), offs=ends_E)


class MoE(Module):
    """Shared experts plus top-k routed ones, with a selection bias that only a balancing rule changes.

    Buffers, float32, the same on every rank:
        expert_bias_E      added to the scores for selection only
        bias_momentum_E    what the last step added to it; SMEBU's momentum
    """

    expert_bias_E: Tensor
    bias_momentum_E: Tensor

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        num_experts: int
        router: Router.Config
        routed_experts: RoutedExperts.Config
        shared_experts: FeedForward.Config | None

    def __init__(self, config: Config):
        super().__init__()
        self.num_experts = config.num_experts
        self.top_k = config.router.top_k
        self.router = config.router.build()
        self.routed_experts = config.routed_experts.build()
        self.shared_experts = config.shared_experts.build() if config.shared_experts is not None else None
        self.balance_loss_weight = 0.0
        """Factor on the gradient of each sequence's balance loss; the trainer sets it every step."""
        self.register_buffer("expert_bias_E", torch.zeros(self.num_experts, dtype=torch.float32))
        self.register_buffer("bias_momentum_E", torch.zeros(self.num_experts, dtype=torch.float32))
        self.tally = Tally.Config(num_experts=self.num_experts).build()

    def forward(self, x_BLD: Tensor) -> Tensor:
        weights_BLK, expert_ids_BLK, scores_BLE, logits_BLE = self.router(x_BLD, self.expert_bias_E)
        counts_BE = count_tokens(expert_ids_BLK, num_experts=self.num_experts)
        counts_E = counts_BE.sum(0)
        if self.training:
            weights_BLK, loss = attach_balance_loss(
                weights_BLK, scores_BLE, counts_BE, top_k=self.top_k, weight=self.balance_loss_weight
            )
            self.tally.add_(counts_E, loss)
            self.tally.add_router_(logits_BLE, scores_BLE, expert_ids_BLK)
        out_BLD = self.routed_experts(x_BLD, weights_BLK, expert_ids_BLK, counts_E)
        return out_BLD if self.shared_experts is None else out_BLD + self.shared_experts(x_BLD)

    def _init_self_buffers(self, *, buffer_device: torch.device | None = None) -> None:
        for buffer in self.buffers(recurse=False):
            buffer.zero_()


def count_tokens(expert_ids_BLK: Tensor, *, num_experts: int) -> Tensor:
    """Tokens of each sequence that chose each expert. int64 [B, L, K] -> int64 [B, E]."""
    ids_BN = expert_ids_BLK.flatten(1)  # N = L K
    counts_BE = torch.zeros(ids_BN.shape[0], num_experts, dtype=torch.int64, device=ids_BN.device)
    return counts_BE.scatter_add_(1, ids_BN, torch.ones_like(ids_BN))


def attach_balance_loss(
    weights_BLK: Tensor, scores_BLE: Tensor, counts_BE: Tensor, *, top_k: int, weight: float
) -> tuple[Tensor, Tensor]:
    """(`weights_BLK`, whose backward pass now also adds d(weight * loss) / d scores; the loss, float32, unweighted).

    Sequence-wise balance loss of one layer, summed over the sequences: sum_i f_i P_i of each, with
    f_i = E / (K L) * (tokens that chose i, under the selection bias) and P_i the mean over tokens of s_i / sum_j s_j
    (no bias). It is 1 where f or P is uniform. The gradient flows through P only: f is a count.
    Source: DeepSeek-V3 (arXiv 2412.19437), equations 17-20; Trinity report, section 2.3.
    """
    L, E = scores_BLE.shape[1:]
    load_BE = counts_BE * (E / (top_k * L))
    return _BalanceLoss.apply(weights_BLK, scores_BLE, load_BE, weight / L)


class _BalanceLoss(torch.autograd.Function):
    """The unweighted loss, and its gradient in closed form, for which nothing as large as the scores has to be kept.

    With S = sum_j s_j and q = sum_i f_i s_i / S of a token, the loss of a sequence is the mean of q over its tokens,
    and dq / ds_i = (f_i - q) / S.
    """

    @staticmethod
    def forward(
        ctx: Any, weights_BLK: Tensor, scores_BLE: Tensor, load_BE: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        total_BL1 = scores_BLE.sum(-1, keepdim=True).clamp_(min=UNDERFLOW)  # a NaN stays one
        q_BL1 = (scores_BLE * load_BE[:, None]).sum(-1, keepdim=True) / total_BL1
        ctx.save_for_backward(load_BE, total_BL1, q_BL1)
        ctx.scale = scale
        loss = q_BL1.sum() / scores_BLE.shape[1]
        ctx.mark_non_differentiable(loss)
        return weights_BLK.view_as(weights_BLK), loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.scale == 0:
            return grads[0], None, None, None
        load_BE, total_BL1, q_BL1 = ctx.saved_tensors
        return grads[0], (load_BE[:, None] - q_BL1).mul_(ctx.scale / total_BL1), None, None


TRAINING_ONLY = ("bias_momentum_E",)
"""Endings of the names of state that belongs to training: not exported, and 0 in a run that starts from weights."""
