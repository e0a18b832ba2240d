"""The `validation` section."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class ValidationConfig:
    """The `validation` section: held-out loss per source, at each checkpoint."""

    windows: int = 32
    """Windows of each source; 0 turns validation off."""

    def __post_init__(self) -> None:
        if self.windows < 0:
            raise ValueError(f"windows={self.windows}: must not be negative; 0 turns validation off")
