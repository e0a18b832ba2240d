"""Which documents, sources and phase were in a step of a run?

    python -m data_pipelines.explain runs/smoke --step 41

Works from plan.json in the run's folder: the plan is a pure function, so nothing was logged for this. Where
metrics.jsonl has the step, the digest of the tokens found is compared with the one that training recorded.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, DAMAGE_EXIT, answers_errors
from data_pipelines.batches.record import DataRecord, read_data_record
from data_pipelines.batches.windows import window_hash
from data_pipelines.plan.ledger import ledger, passes
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.reader import open_part
from data_pipelines.shards.source import TokenSource


class DigestError(ValueError):
    """A step has other tokens now than when it was trained on."""


def open_sources(record: DataRecord) -> dict[str, TokenSource]:
    """The shards that the run reads. Raises DataError with each source that is gone or not what it was."""
    problems, sources = [], {}
    fingerprints = {source.name: source.fingerprint for source in record.plan.sources}
    for name, source in record.prepared.sources.items():
        try:
            sources[name] = open_part(source, source.train)
        except (OSError, ValueError) as error:
            problems.append(f"source {name}, which the run read from {source.train}: {error}")
            continue
        if sources[name].manifest.fingerprint != fingerprints[name]:
            problems.append(
                f"source {name}: {source.train} holds other tokens than when the run read them; put the old ones back"
            )
    if problems:
        raise DataError("\n".join(problems))
    return sources


def explain_window(plan: Plan, sources: Mapping[str, TokenSource], g: int) -> Iterator[str]:
    """Lines on global window `g`: a line for the window, then one for each document in it."""
    window = plan.window(g)
    source, start = sources[window.source], window.index * plan.seq_len
    yield f"window {g:,}: {window.phase}, {window.source}, epoch {window.epoch}, index {window.index:,}"
    inside = source.window_edges(window.index, plan.seq_len)
    edges = [0, *inside[inside < plan.seq_len].tolist(), plan.seq_len]
    for first, end in pairwise(edges):
        place = source.place(start + first)
        yield f"  {end - first:6,} tokens  {place.name}  (shard {place.shard}, document {place.document:,})"


def step_digest(plan: Plan, sources: Mapping[str, TokenSource], windows: range) -> int:
    """What the trainer records as batch_digest, 0 .. 2^64 - 1."""
    places = ((g, plan.window(g)) for g in windows)
    return sum(window_hash(g, sources[w.source].window(w.index, plan.seq_len)) for g, w in places) % 2**64


def recorded_digest(run_dir: Path, step: int) -> int | None:
    """batch_digest of the step in metrics.jsonl; the last line counts, since a resumed run may repeat steps.

    None where it has no such step. Raises DataError for a line that is no row.
    """
    path = run_dir / "metrics.jsonl"
    # what is no UTF-8 is no row, as train/metrics/jsonl.py has it
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.split("\n")[:-1]  # without the one that is being written
    found = None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            found = int(row["batch_digest"], 16) if row.get("step") == step else found
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not the row of a step ({error!r}); restore the file from a copy"
            ) from error
    return found


def explain_ledger(plan: Plan, num_windows: int) -> Iterator[str]:
    """Lines on what windows 0 .. num_windows - 1 have used: target tokens by phase and source, passes by source."""
    yield "so far, in target tokens:"
    for phase, sources in ledger(plan, num_windows).items():
        if any(sources.values()):
            yield f"  {phase}: " + ", ".join(f"{source} {tokens:,}" for source, tokens in sources.items())
    yield "  passes: " + ", ".join(f"{source} {count:.2f}" for source, count in passes(plan, num_windows).items())


@answers_errors({DigestError: DAMAGE_EXIT, ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.explain", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument("--step", required=True, type=int, metavar="N", help="number of the step, from 1")
    args = parser.parse_args(arguments)
    return explain(args.run, args.step)


def explain(run_dir: Path, number: int) -> int:
    """Prints the documents of step `number`. Raises DataError or DigestError where its data are not what they were."""
    record = read_data_record(run_dir)
    plan, windows = record.plan, record.ramp.windows(number)
    sources = open_sources(record)
    for g in windows:
        print(*explain_window(plan, sources, g), sep="\n")
    print(*explain_ledger(plan, windows.stop), sep="\n")
    found, recorded = step_digest(plan, sources, windows), recorded_digest(run_dir, number)
    if recorded is None:
        print(f"digest {found:016x}; {run_dir}/metrics.jsonl has no step {number} to compare it with")
    elif found == recorded:
        print(f"digest {found:016x}, the same as training recorded")
    else:
        raise DigestError(
            f"digest {found:016x} is not the {recorded:016x} that training recorded for step {number}: the corpus or "
            f"the configuration in {run_dir} has changed since"
        )
    return 0


if __name__ == "__main__":
    run_command(main)
