"""Whether rows are such that a report can be made of them: each whole, and one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictInt, StrictStr, TypeAdapter, ValidationError

from train.metrics.row import RATE, Row, rates

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@dataclass
class _Seconds:
    total: Number
    data: Number = 0.0
    forward_backward: Number = 0.0
    optimizer: Number = 0.0
    checkpoint: Number = 0.0
    validation: Number = 0.0


@dataclass
class _Read:
    """What the report and its picture read of a row, besides its learning rates."""

    step: StrictInt
    tokens: StrictInt
    phase: StrictStr
    loss: Number
    global_batch: StrictInt
    max_violation: Number
    max_violation_by_layer: Annotated[dict[str, Number], Field(min_length=1)]
    dead_experts: StrictInt
    tokens_per_second: Number
    seconds: _Seconds
    validation: dict[str, Number] | None = None
    initial_validation: dict[str, Number] | None = None


_READ = TypeAdapter(_Read)
_RATES = TypeAdapter(dict[str, Number])


def check_rows(rows: list[Row], path: Path) -> None:
    """Raises ValueError with the line of the first row that is damaged, or does not go on from the one before."""
    before: Row | None = None
    sources: set[str] = set()
    for number, row in enumerate(rows, 1):
        problem = _damage(row) or (_break(before, row) if before else None) or _other_sources(row, sources)
        if problem:
            raise ValueError(f"{path}, line {number}: {problem}; remove the line, or restore the file from a copy")
        before = row


def _damage(row: Row) -> str | None:
    try:
        _READ.validate_python(row)
        _RATES.validate_python({f"{RATE}{name}": rate for name, rate in rates(row).items()})
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None if rates(row) else f"{RATE}: no learning rate"


def _break(before: Row, row: Row) -> str | None:
    if row["step"] <= before["step"]:
        return f"step {row['step']} comes after step {before['step']}"
    if row["max_violation_by_layer"].keys() != before["max_violation_by_layer"].keys():
        return f"its layers are {', '.join(row['max_violation_by_layer'])}, those before are others"
    if rates(row).keys() != rates(before).keys():
        return f"its learning rates are those of {', '.join(rates(row))}, those before are others"
    return None


def _other_sources(row: Row, sources: set[str]) -> str | None:
    """The first measurement fills `sources`."""
    for losses in (row.get("initial_validation"), row.get("validation")):
        sources.update(losses or () if not sources else ())
        if losses and losses.keys() != sources:
            return f"its held-out sources are {', '.join(losses)}, those before are others"
    return None
