"""The language-model head. Extends torchtitan's Linear.

B = batch, L = sequence, D = model width, V = vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchtitan.models.common.linear import Linear

Loss = Callable[[Tensor, Tensor], Any]
"""(hidden states [B, L, D], weight of the head [V, D]) -> its figures."""


class Head(Linear):
    """Logits, or a loss that makes them piece by piece: with a vocabulary of 200k they outgrow the rest of the model.

    The loss runs inside the module because FSDP holds the whole weight only there.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        pass

    def forward(self, input: Tensor, loss: Loss | None = None) -> Any:
        return super().forward(input) if loss is None else loss(input, self.weight)
