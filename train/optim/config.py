"""The `optimizer` section: the one place where the optimizers are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_type_hints

from train.optim.adamw import AdamWConfig
from train.optim.base import OptimizerOptions
from train.optim.muon import MuonConfig


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """The `optimizer` section: the settings of each optimizer, and which of them takes which parameters."""

    muon: MuonConfig = field(default_factory=MuonConfig)
    adamw: AdamWConfig = field(default_factory=AdamWConfig)

    hidden: str = "muon"
    """Name of the optimizer that takes every hidden matrix."""
    others: str = "adamw"
    """Name of the one that takes the embedding, the head and (without weight decay) the gains."""

    def __post_init__(self) -> None:
        for setting, name in (("hidden", self.hidden), ("others", self.others)):
            if name not in OPTIMIZERS:
                raise ValueError(f"{setting} must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
        if not OPTIMIZERS[self.others].takes_vectors:
            vectors = [name for name, options in OPTIMIZERS.items() if options.takes_vectors]
            raise ValueError(
                f"others must be one of {', '.join(vectors)}, got {self.others!r}, which takes matrices only; gains "
                "are vectors"
            )

    def of(self, name: str) -> OptimizerOptions:
        """The settings of an optimizer."""
        return getattr(self, name)


OPTIMIZERS: dict[str, type[OptimizerOptions]] = {
    name: hint
    for name, hint in get_type_hints(OptimizerConfig).items()
    if isinstance(hint, type) and issubclass(hint, OptimizerOptions)
}
"""Name in the section -> the class of its settings."""

NAMES = {options.optimizer: name for name, options in OPTIMIZERS.items()}
"""Class of an optimizer -> its name in the section."""
