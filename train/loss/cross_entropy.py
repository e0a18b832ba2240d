"""The training loss as torchtitan's component. Extends BaseLoss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torchtitan.components.loss import BaseLoss
from torchtitan.config import CompileConfig

from train.loss.chunked import linear_loss, logit_loss_
from train.loss.config import LossConfig
from train.loss.sums import LossSums


class CrossEntropyZLoss(BaseLoss):
    """The training loss, for a head that is given it instead of making logits (train/afmoe/head.py)."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        section: LossConfig

    fn: Callable[..., Any]

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None):
        self.z_loss_weight = config.section.z_loss_weight
        self._tokens_of_chunk = config.section.tokens_of_chunk
        self.fn = logit_loss_
        self._maybe_compile(compile_config)
        if config.section.kernel == "liger":
            from train.loss.liger import liger_loss  # an optional package

            self._linear_loss: Callable[..., LossSums] = liger_loss
        else:
            self._linear_loss = self._in_chunks

    def __call__(self, hidden_BLD: Tensor, head_VD: Tensor, labels_BL: Tensor) -> LossSums:
        hidden_TD, labels_T = hidden_BLD.flatten(0, 1), labels_BL.flatten()
        return self._linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=self.z_loss_weight)

    def _in_chunks(self, hidden_TD: Tensor, head_VD: Tensor, labels_T: Tensor, *, z_loss_weight: float) -> LossSums:
        size = self._tokens_of_chunk(len(head_VD))
        loss = partial(linear_loss, chunk_tokens=size, logit_loss_=self.fn)
        return loss(hidden_TD, head_VD, labels_T, z_loss_weight=z_loss_weight)
