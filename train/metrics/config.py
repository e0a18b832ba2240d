"""The `metrics` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True, slots=True)
class MetricsConfig:
    """The `metrics` section."""

    wandb: Literal["online", "offline", "disabled"] = "online"
    """W&B mode. `offline` writes to <run>/wandb; `wandb sync` uploads it later."""
    wandb_project: str = "trinity"
    """W&B project."""
    wandb_entity: str | None = None
    """W&B team; null: the default of your account."""
    wandb_required: bool = True
    """Whether a run stops when W&B cannot start; false: it goes on without, and says so."""
    console: bool = True
    """Whether rank 0 shows a progress line."""
    panels_every: int = 10
    """Steps from one row with the panels of balance to the next; 0: none."""
    heatmap_every: int = 100
    """Steps from one picture of the load of every expert, <run>/loads.png, to the next; 0: none."""

    def __post_init__(self) -> None:
        for name in ("panels_every", "heatmap_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}; 0 turns it off")
