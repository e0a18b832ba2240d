"""What every optimizer has. A new one is a file with its class and its settings, a line in config.py, and a file in
configs/optimizer/."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.optim import Optimizer

DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Share of a running mean that is kept in a step."""


def named(group: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """(name, parameter) of a group; those that were given without names are numbered."""
    names = group.get("param_names") or [f"parameter {i}" for i in range(len(group["params"]))]
    return list(zip(names, group["params"], strict=True))


@dataclass(kw_only=True, slots=True)
class OptimizerOptions(ABC):
    """The settings of an optimizer, which are the arguments of its class."""

    lr: PositiveFloat
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: NonNegativeFloat
    """Decoupled: p *= 1 - lr * weight_decay."""

    optimizer: ClassVar[type[Optimizer]]
    """Its class, in torch's form: made of parameter groups and `settings`."""
    num_states: ClassVar[int]
    """Values that it keeps for each parameter."""
    has_owners: ClassVar[bool] = False
    """Whether one of the ranks that hold the same values keeps the states for all of them."""
    of_the_whole: ClassVar[tuple[str, ...]] = ()
    """Settings that no group of parameters has for itself."""
    takes_vectors: ClassVar[bool] = True
    """False where it updates matrices only."""
    has_kernels: ClassVar[bool] = False
    """Whether its groups take torch's `fused` and `foreach`."""

    @classmethod
    def num_matrices(cls, shape: Sequence[int]) -> int:
        """How many matrices of a parameter are updated as wholes; 0: each entry is updated by itself."""
        return 0

    @classmethod
    def rate_factor(cls, shape: Sequence[int]) -> float:
        """What multiplies the learning rate of a parameter."""
        return 1.0

    def settings(self) -> dict[str, Any]:
        """What the optimizer is made with."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def group_settings(self) -> dict[str, Any]:
        """What each group of its parameters is made with."""
        return {name: value for name, value in self.settings().items() if name not in self.of_the_whole}
