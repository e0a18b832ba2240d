"""One picture of a run's data: what it reads when, how often, how long documents are, and what packing wastes.

    python -m data_pipelines.show runs/smoke                          writes runs/smoke/data.png
    python -m data_pipelines.show runs/large/plan.json --out data.png

Mixture and epochs are the plan's, in closed form, for any number of tokens. Documents are those of the shards: all of a
small source, evenly spaced parts of a large one; where the shards are out of reach, only the plan is drawn.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_pipelines.base.canvas import COLORS, GREY, mark_phases, new_picture
from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, answers_errors
from data_pipelines.base.progress import progress_bar
from data_pipelines.batches.record import FILE_NAME, DataRecord, read_data_record
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.reader import open_part
from data_pipelines.shards.source import TokenSource

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

PARTS, PART_TOKENS = 64, 1 << 20
"""At most so many parts of a source are looked at, each of so many tokens: 67M, whose index is read in seconds."""


class Documents(NamedTuple):
    """What was looked at of a source."""

    lengths: np.ndarray
    """Tokens of each document that lies whole in one part, int64."""
    masked: float
    """Share of the targets that are masked because they begin another document; with data.intra_document."""
    cut: float
    """Share of the documents that an edge of a window cuts."""


def mixture(plan: Plan) -> dict[str, list[float]]:
    """Source -> its share of each phase. Closed form."""
    return {
        source.name: [phase.counts[k] / max(1, sum(phase.counts)) for phase in plan.phases]
        for k, source in enumerate(plan.sources)
    }


def epochs(plan: Plan) -> dict[str, list[float]]:
    """Source -> how often it has been read at the start and after each phase. Closed form."""
    used_in = [plan.used_in(p) for p in range(len(plan.phases))]
    return {
        source.name: [0.0, *(np.cumsum([used[k] for used in used_in]) / source.num_windows).tolist()]
        for k, source in enumerate(plan.sources)
        if source.num_windows
    }


def look_at(source: TokenSource, seq_len: int) -> Documents:
    """Raises DataError for shards that are damaged."""
    parts = [(0, source.num_tokens)]
    if source.num_tokens > PARTS * PART_TOKENS:
        starts = np.linspace(0, source.num_tokens - PART_TOKENS, PARTS).astype(int).tolist()
        parts = [(start, start + PART_TOKENS) for start in starts]
    lengths: list[np.ndarray] = []
    edges = targets = cut = 0
    for start, stop in parts:
        ends = source.document_ends(start, stop)
        edges, targets = edges + len(ends), targets + stop - start
        if (start, stop) == (0, source.num_tokens):
            ends = np.concatenate([[0], ends, [stop]])
        lengths.append(np.diff(ends))
        # a window begins at each multiple of seq_len; it cuts the document if that is not its first token
        cut += int((ends[:-1] // seq_len != (ends[1:] - 1) // seq_len).sum()) if len(ends) else 0
    found = np.concatenate(lengths)
    return Documents(found, edges / max(1, targets), cut / max(1, len(found)))


def draw(record: DataRecord, documents: dict[str, Documents], *, title: str, path: Path) -> None:
    """Writes the picture as PNG; it is there whole or not at all."""
    plan = record.plan
    tokens = [edge * plan.seq_len for edge in (0, *np.cumsum([phase.num_windows for phase in plan.phases]).tolist())]
    phases: dict[str, tuple[int, int]] = {}
    for phase, (start, end) in zip(plan.phases, pairwise(tokens), strict=True):  # an edit cuts one into parts
        phases[phase.name] = (phases.get(phase.name, (start, end))[0], end)
    colors = dict(zip((source.name for source in plan.sources), cycle(COLORS), strict=False))
    with new_picture(2, 2, size=(13, 8), title=title, path=path, sharex=False) as panels:
        _draw_mixture(panels[0][0], plan, tokens, colors)
        _draw_epochs(panels[0][1], plan, tokens, colors)
        for axes in panels[0]:
            mark_phases(axes, phases, seen=tokens[-1])
            axes.set_xlabel("tokens")
            axes.xaxis.set_major_formatter(lambda value, _position: _amount(value))
        for axes, draw_panel in zip(panels[1], (_draw_lengths, _draw_waste), strict=True):
            if documents:
                draw_panel(axes, documents, colors, plan.seq_len)
            else:
                axes.text(0.5, 0.5, "shards are out of reach", transform=axes.transAxes, ha="center", color=GREY)
                axes.set_yticks([])


def _draw_mixture(axes: Axes, plan: Plan, tokens: list[int], colors: dict[str, str]) -> None:
    axes.set_title("Share of each source")
    edges = [edge for pair in pairwise(tokens) for edge in pair]
    shares = {name: [share for share in of_phases for _ in (0, 1)] for name, of_phases in mixture(plan).items()}
    axes.stackplot(edges, *shares.values(), labels=list(shares), colors=[colors[name] for name in shares], alpha=0.85)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:.0%}")
    axes.legend(loc="lower left", ncols=3)


def _draw_epochs(axes: Axes, plan: Plan, tokens: list[int], colors: dict[str, str]) -> None:
    axes.set_title("Epochs of each source")
    for name, passes in epochs(plan).items():
        axes.plot(tokens, passes, color=colors[name], label=f"{name}: {passes[-1]:.2f}")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")


def _draw_lengths(axes: Axes, documents: dict[str, Documents], colors: dict[str, str], seq_len: int) -> None:
    axes.set_title("Share of a source's tokens in documents of a length")
    longest = max([2, *(int(found.lengths.max(initial=0)) for found in documents.values())])
    bins = np.geomspace(1, longest + 1, 40)
    for name, found in documents.items():
        if len(found.lengths):
            weights, _ = np.histogram(found.lengths, bins, weights=found.lengths / found.lengths.sum())
            label = f"{name}: median {int(np.median(found.lengths)):,}"
            axes.stairs(weights, bins, color=colors[name], linewidth=1.7, label=label)
    axes.axvline(seq_len, color=GREY, linestyle="--", linewidth=1.0, label=f"window: {seq_len:,}")
    axes.set_xscale("log")
    axes.set_xlabel("tokens of the document")
    axes.legend(loc="upper left")


def _draw_waste(axes: Axes, documents: dict[str, Documents], colors: dict[str, str], seq_len: int) -> None:
    axes.set_title("Packing: documents cut by a window's edge, targets masked")
    places = np.arange(len(documents))
    for shift, values, hatch in (
        (-0.2, [found.cut for found in documents.values()], ""),
        (0.2, [found.masked for found in documents.values()], "///"),
    ):
        bars = axes.bar(
            places + shift, values, 0.38, color=[colors[name] for name in documents], hatch=hatch, alpha=0.85
        )
        axes.bar_label(bars, [f"{value:.2%}" for value in values], color=GREY)
    axes.set_xticks(places, list(documents))
    axes.set_xlabel("left: documents that are cut; right, hatched: targets that begin another document")
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:.0%}")


def _amount(tokens: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{letter}"
    return f"{tokens:.0f}"


def show(where: Path, out: Path | None) -> str:
    """Draws the picture and says where it is, with its figures. Raises DataError where there is no plan."""
    run_dir = where.parent if where.name == FILE_NAME else where
    record, path = read_data_record(run_dir), out or run_dir / "data.png"
    documents: dict[str, Documents] = {}
    notes: list[str] = []
    for name, source in progress_bar(iterable=record.prepared.sources.items(), desc="documents", unit=" sources"):
        try:
            documents[name] = look_at(open_part(source, source.train), record.plan.seq_len)
        except (OSError, ValueError) as error:
            notes.append(f"source {name}: its documents are not drawn ({error})")
    plan = record.plan
    total = f"{plan.num_windows * plan.seq_len:,} tokens in windows of {plan.seq_len:,}"
    draw(record, documents, title=f"{run_dir.resolve().name}: {total}", path=path)
    lines = [total]
    for name, passes in epochs(plan).items():
        line = f"  {name}: {passes[-1]:.2f} epochs"
        if found := documents.get(name):
            line += f", {found.cut:.2%} of documents cut, {found.masked:.2%} of targets masked with intra_document"
        lines.append(line)
    return "\n".join([*lines, *notes, f"picture: {path}"])


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.show", description=__doc__)
    parser.add_argument("where", metavar="PLAN_OR_RUN", type=Path, help="folder of a run, or its plan.json")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="the picture (default: data.png in the run)")
    args = parser.parse_args(arguments)
    print(show(args.where, args.out))
    return 0


if __name__ == "__main__":
    run_command(main)
