"""Which experts a token visits, and with what weight. Extends torchtitan's router, whose scores alone say too little.

    x -> gate -> logits -> sigmoid -> scores ----------------------> weights of the chosen experts
                                        + selection bias -> top k -> which are chosen

What a router hands on, `Routing`, has a reader for each part: the experts take the weights and the ids, the balance
loss the scores, the tally all but the weights. The bias has a say in who is chosen and none in the weight, so that no
gradient and no output of the model depends on it otherwise.

B = batch, L = sequence, D = model width, E = experts, K = experts a token visits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.moe import TokenChoiceTopKRouter

UNDERFLOW = 1e-20
"""Keeps the sum of a token's scores above 0 where all of them underflow. torchtitan's number."""


class Routing(NamedTuple):
    """What the router makes of the tokens of a layer."""

    weights_BLK: Tensor
    """float32: factors on the outputs of the chosen experts."""
    expert_ids_BLK: Tensor
    """int64: the chosen experts of each token, in no order."""
    scores_BLE: Tensor
    """float32: the sigmoid of each logit, without bias."""
    logits_BLE: Tensor
    """float32: how large they are shows what the scores hide, where large ones are all 1. Only measured: detached."""


class Gate(Linear):
    """The router's logits. float32 whatever the training dtype: bf16 scores tie, and ties pick experts by index.

    Where training.mixed_precision_param is bfloat16, FSDP rounds the weight to it before: the product and what comes
    after are exact for the rounded weight. transformers and the published code multiply in bfloat16 too.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        def __post_init__(self) -> None:
            if self.bias:
                raise ValueError("gate.bias must be false: the gate of this family has none, got True")

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.float(), self.weight.float())


class Router(TokenChoiceTopKRouter):
    """torchtitan's, which hands on its logits too. Its Config raises ValueError for a setting that it would ignore."""

    @dataclass(kw_only=True, slots=True)
    class Config(TokenChoiceTopKRouter.Config):
        def __post_init__(self) -> None:
            if self.score_func != "sigmoid":
                raise ValueError(f"score_func must be 'sigmoid', as in this family, got {self.score_func!r}")
            for name in ("num_expert_groups", "num_limited_groups"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} must be None: tokens choose among all experts, got {getattr(self, name)}")

    def forward(self, x_BLD: Tensor, expert_bias_E: Tensor) -> Routing:  # type: ignore[override]  # theirs has three parts
        logits_BLE = self.gate(x_BLD)
        scores_BLE = torch.sigmoid(logits_BLE)
        expert_ids_BLK = torch.topk(scores_BLE + expert_bias_E, k=self.top_k, dim=-1, sorted=False).indices
        weights_BLK = scores_BLE.gather(dim=-1, index=expert_ids_BLK)
        if self._debug_force_load_balance:
            expert_ids_BLK, weights_BLK = self._debug_force_load_balance_routing(scores_BLE)
        if self.route_norm:
            weights_BLK = weights_BLK / (weights_BLK.sum(dim=-1, keepdim=True) + UNDERFLOW)
        return Routing(weights_BLK * self.route_scale, expert_ids_BLK, scores_BLE, logits_BLE.detach())
