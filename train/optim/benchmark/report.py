"""The tables of the benchmark. Pure: what was measured -> text."""

from __future__ import annotations

from data_pipelines.base.command import aligned
from train.optim.benchmark.measure import Measured

HEADING = ("", "s a step", "x", "CPU s", "x", "flops / needed", "GB received", "/ bound", "busiest / mean")


def table(results: dict[str, Measured]) -> str:
    """A line for each contestant that ran, the reason of each that did not, and the phases of those that mark them.

    The columns x are times the first contestant's.
    """
    ran = {name: measured for name, measured in results.items() if not measured.refusal}
    refused = [f"{name} does not run here: {m.refusal}" for name, m in results.items() if m.refusal]
    if not ran:
        return "\n".join(refused)
    first = next(iter(ran.values()))
    lines = [HEADING, *(_line(name, measured, first) for name, measured in ran.items())]
    return "\n".join([*aligned(lines, words=(0,)), *refused, *_phases(ran)])


def _line(name: str, measured: Measured, first: Measured) -> tuple[str, ...]:
    return (
        name,
        f"{measured.step_seconds:.2f}",
        f"{measured.step_seconds / first.step_seconds:.2f}",
        f"{measured.step_cpu_seconds:.2f}",
        f"{measured.step_cpu_seconds / first.step_cpu_seconds:.2f}",
        f"{measured.flops_ratio:.2f}",
        f"{sum(measured.received) / 1e9:.2f}",
        f"{measured.bytes_ratio:.2f}",
        f"{measured.balance:.2f}",
    )


def _phases(ran: dict[str, Measured]) -> list[str]:
    """Of those that mark them. Phases of several rounds overlap with what travels for others."""
    marked = {name: measured.phases for name, measured in ran.items() if measured.phases}
    if not marked:
        return []
    names = list(next(iter(marked.values())))
    lines = [("ms of a rank, mean", *names)]
    lines += [(name, *(f"{1e3 * phases[phase]:.0f}" for phase in names)) for name, phases in marked.items()]
    return ["", *aligned(lines, words=(0,))]
