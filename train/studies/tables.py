"""The table that a study writes: markdown whose columns line up, and what each column shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from train.metrics.row import Row

Heading = Mapping[str, str]
"""Column -> what it shows."""


def markdown(heading: Heading, lines: Iterable[tuple[str, ...]]) -> str:
    """The first column begins at the left, the others end at the right."""
    cells = [tuple(heading), *lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *body = [f"| {' | '.join(_pad(line, widths))} |" for line in cells]
    rule = f"|{'|'.join('-' * (width + 1) + (':' if place else '-') for place, width in enumerate(widths))}|"
    return "\n".join([head, rule, *body])


def legend(heading: Heading) -> str:
    """What the columns show, a line each."""
    return "\n".join(f"- {name}: {meaning}" for name, meaning in heading.items())


def last_validation(rows: list[Row]) -> float | None:
    """The last measurement, nats per token, mean over the sources; None of a run without validation."""
    measured = [losses for row in rows if (losses := row.get("validation"))]
    return fmean(measured[-1].values()) if measured else None


def _pad(line: tuple[str, ...], widths: list[int]) -> list[str]:
    return [f"{cell:{'>' if place else '<'}{widths[place]}}" for place, cell in enumerate(line)]
