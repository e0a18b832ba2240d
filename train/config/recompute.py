"""The `activation_checkpoint` section: torchtitan's classes, which have no field that says which of them is meant."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from torchtitan.distributed.activation_checkpoint import FullAC, MemoryBudgetAC, SelectiveAC

AnyRecompute: TypeAlias = FullAC.Config | MemoryBudgetAC.Config | SelectiveAC.Config | None

KINDS: dict[str, type | None] = {
    "none": None,
    "selective": SelectiveAC.Config,
    "full": FullAC.Config,
    "memory_budget": MemoryBudgetAC.Config,
}
"""`activation_checkpoint.kind` -> the class of the section; none keeps every activation."""

RecomputeConfig: TypeAlias = Annotated[AnyRecompute, "by kind", KINDS]
"""Validated as the class that `kind` names."""
