"""What a run did: <run>/metrics.jsonl -> a table and <run>/report.png.

    python -m train.report runs/smoke

Works on a run that still goes on, too. Tokens of a phase are counted between its exact edges; a step, with its loss,
belongs to the phase that it begins in.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pydantic import TypeAdapter

from data_pipelines.base.canvas import Phases
from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, answers_errors
from train.metrics.jsonl import FILE_NAME, require_rows
from train.metrics.row import Row
from train.metrics.soundness import check_rows
from train.pictures.run import draw, validations
from train.schedule.config import ScheduleConfig
from train.schedule.timeline import Timeline

Block = list[tuple[str, ...]]
"""Lines of a table: a name and figures; the first line is the heading."""

RECENT_STEPS = 50
"""Steps at the end of the run over which balance is judged."""
UNITS = "losses in nats per token; MaxVio: load of the busiest expert over the mean load, less 1"
NOT_VALIDATED = "validation: none so far (it is measured with each checkpoint; none where nothing is held out)"
TIMED_PARTS = ("data", "forward_backward", "optimizer", "checkpoint", "validation")
"""Parts of `seconds`; what remains of its `total` is shown as `other`."""


def write_report(run_dir: Path) -> str:
    """Writes <run>/report.png and returns the table. Raises ValueError where there is no finished step to report.

    A run directory that may only be read has its table all the same.
    """
    rows, phases = require_rows(run_dir), read_phases(run_dir)
    check_rows(rows, run_dir / FILE_NAME)
    picture = run_dir / "report.png"
    where = str(picture)
    try:
        draw(rows, phases, title=f"{run_dir.name}: {_headline(rows)}", path=picture)
    except OSError as error:
        where = f"none, {run_dir} cannot be written ({error.strerror})"
    return f"{run_dir}: {_headline(rows)}\n{UNITS}\n\n{table(rows, phases)}\n\npicture: {where}"


def read_phases(run_dir: Path) -> Phases:
    """The phases of the run's own config.yaml, in tokens. Raises ValueError where they cannot be read from it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = run_dir / "config.yaml"
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
        schedule = TypeAdapter(ScheduleConfig).validate_python(config["schedule"])
        timeline = Timeline(schedule, config["training"]["seq_len"], config.get("data", {}).get("skip", ()))
        edges = [0, *(window * timeline.seq_len for window in timeline.phase_edges)]
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; expected a run directory") from error
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); it is not the file that a run wrote"
        ) from error
    return {phase.name: edge for phase, edge in zip(schedule.phases, pairwise(edges), strict=True)}


def table(rows: list[Row], phases: Phases) -> str:
    """All blocks of the report as aligned text; the columns line up over the blocks."""
    validation = validation_block(rows) or [(NOT_VALIDATED,)]
    blocks = (training_block(rows, phases), validation, balance_block(rows), time_block(rows))
    return "\n\n".join("\n".join(_align(line) for line in block) for block in blocks)


def training_block(rows: list[Row], phases: Phases) -> Block:
    """Tokens, steps and loss of each phase that was reached, and of the whole run."""
    seen = rows[-1]["tokens"]
    lines: Block = [("training", "tokens", "steps", "first loss", "last loss")]
    for name, (start, end) in phases.items():
        if steps := [row for row in rows if row["phase"] == name]:
            lines.append(_training_line(name, min(end, seen) - start, steps))
    return [*lines, _training_line("whole run", seen, rows)]


def _training_line(name: str, tokens: int, steps: list[Row]) -> tuple[str, ...]:
    return (f"  {name}", f"{tokens:,}", f"{len(steps):,}", f"{steps[0]['loss']:.3f}", f"{steps[-1]['loss']:.3f}")


def validation_block(rows: list[Row]) -> Block:
    """Loss on the held-out part of each source, at the first and at the last measurement."""
    measured = validations(rows)
    if not measured:
        return []
    (first_step, _, first), (last_step, _, last) = measured[0], measured[-1]
    lines: Block = [("validation", f"step {first_step:,}", f"step {last_step:,}", "change")]
    for source, loss in last.items():
        lines.append((f"  {source}", f"{first[source]:.3f}", f"{loss:.3f}", f"{loss - first[source]:+.3f}"))
    return lines


def balance_block(rows: list[Row]) -> Block:
    """How evenly the experts are used, over the last steps. A step counts with its worst layer."""
    recent = rows[-RECENT_STEPS:]
    violations = [row["max_violation"] for row in recent]
    idle = [row["dead_experts"] for row in recent]
    return [
        (f"balance, last {len(recent)} steps", "mean", "worst"),
        ("  MaxVio", f"{fmean(violations):.2f}", f"{max(violations):.2f}"),
        ("  idle experts", f"{fmean(idle):.1f}", f"{max(idle)}"),
    ]


def time_block(rows: list[Row]) -> Block:
    """Where the time went, summed over the steps."""
    whole = sum(row["seconds"]["total"] for row in rows)
    parts = {part: float(sum(row["seconds"].get(part, 0.0) for row in rows)) for part in TIMED_PARTS}
    parts["other"] = max(0.0, whole - sum(parts.values()))
    lines: Block = [("time", "seconds", "share")]
    for part, seconds in {**parts, "all steps": whole}.items():
        lines.append((f"  {part.replace('_', '-')}", f"{seconds:,.1f}", f"{seconds / (whole or 1.0):.1%}"))
    return lines


def _headline(rows: list[Row]) -> str:
    speed = median(row["tokens_per_second"] for row in rows)
    return f"{rows[-1]['step']:,} steps, {rows[-1]['tokens']:,} tokens, {speed:,.0f} tokens/s (median step)"


def _align(line: tuple[str, ...]) -> str:
    name, *figures = line
    return f"{name:<24}" + "".join(f"{figure:>14}" for figure in figures)


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m train.report", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    print(write_report(parser.parse_args(arguments).run))
    return 0


if __name__ == "__main__":
    run_command(main)
