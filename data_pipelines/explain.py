"""Which documents, sources and phase were in a step of a run?

    python -m data_pipelines.explain runs/smoke --step 41
    python -m data_pipelines.explain runs/smoke --step 41 --text

Works from plan.json in the run's folder: the plan is a pure function, so nothing was logged for this. Where
metrics.jsonl has the step, the digest of the tokens found is compared with the one that training recorded.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, DAMAGE_EXIT, answers_errors
from data_pipelines.batches.record import DataRecord, read_data_record
from data_pipelines.batches.rows import data_rows
from data_pipelines.batches.windows import window_hash
from data_pipelines.plan.ledger import ledger, passes
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.reader import open_part
from data_pipelines.shards.source import TokenSource
from data_pipelines.tokenizer.encoder import TextEncoder
from data_pipelines.tokenizer.file import file_hash


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


def document_edges(source: TokenSource, index: int, seq_len: int) -> list[int]:
    """Where the documents of a window begin and end, counted from its start: 0, ..., seq_len."""
    inside = source.window_edges(index, seq_len)
    return [0, *inside[inside < seq_len].tolist(), seq_len]


def explain_window(plan: Plan, sources: Mapping[str, TokenSource], g: int) -> Iterator[str]:
    """Lines on global window `g`: a line for the window, then one for each document in it."""
    window = plan.window(g)
    source, start = sources[window.source], window.index * plan.seq_len
    edges = document_edges(source, window.index, plan.seq_len)
    yield f"window {g:,}: {window.phase}, {window.source}, epoch {window.epoch}, index {window.index:,}"
    for first, end in pairwise(edges):
        place = source.place(start + first)
        yield f"  {end - first:6,} tokens  {place.name}  (shard {place.shard}, document {place.document:,})"


def step_digest(plan: Plan, sources: Mapping[str, TokenSource], windows: range) -> int:
    """What the trainer records as batch_digest, 0 .. 2^64 - 1."""
    places = ((g, plan.window(g)) for g in windows)
    return sum(window_hash(g, sources[w.source].window(w.index, plan.seq_len)) for g, w in places) % 2**64


def explain_text(plan: Plan, sources: Mapping[str, TokenSource], g: int, encoder: TextEncoder) -> Iterator[str]:
    """Lines with the text of global window `g`, document by document, marked where the window begins and ends."""
    window = plan.window(g)
    source = sources[window.source]
    tokens = source.window(window.index, plan.seq_len)[: plan.seq_len]
    edges = document_edges(source, window.index, plan.seq_len)
    start = window.index * plan.seq_len
    begins_inside = start > 0 and not len(source.document_ends(start - 1, start + 1))
    ends_inside = not len(source.document_ends(start + plan.seq_len - 1, start + plan.seq_len + 1))
    yield "  >>> the window begins" + (" inside of a document" if begins_inside else "")
    for number, (first, end) in enumerate(pairwise(edges)):
        if number:
            yield "  --- next document"
        yield from (f"  | {line}" for line in encoder.decode(tokens[first:end].tolist()).split("\n"))
    yield "  <<< the window ends" + (" inside of a document" if ends_inside else "")


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
    parser.add_argument("--text", action="store_true", help="print the text of each window too")
    args = parser.parse_args(arguments)
    return explain(args.run, args.step, text=args.text)


def open_encoder(record: DataRecord) -> TextEncoder:
    """The tokenizer of the run. Raises DataError where it is another now: its text would be made up."""
    folder = Path(record.prepared.tokenizer_dir)
    if not folder.is_dir() or file_hash(folder) != record.tokenizer_hash:
        raise DataError(f"{folder}: the tokenizer that the run was started with is not there any more; put it back")
    return TextEncoder(folder, quiet=True)


def explain(run_dir: Path, number: int, *, text: bool = False) -> int:
    """Prints the documents of step `number`. Raises DataError or DigestError where its data are not what they were."""
    record = read_data_record(run_dir)
    plan, windows = record.plan, record.ramp.windows(number)
    sources = open_sources(record)
    encoder = open_encoder(record) if text else None
    for g in windows:
        print(*explain_window(plan, sources, g), sep="\n")
        if encoder:
            print(*explain_text(plan, sources, g, encoder), sep="\n")
    print(*explain_ledger(plan, windows.stop), sep="\n")
    found, rows = f"{step_digest(plan, sources, windows):016x}", data_rows(run_dir)
    if number not in rows:
        print(f"digest {found}; {run_dir}/metrics.jsonl has no step {number} to compare it with")
    elif found == rows[number].digest:
        print(f"digest {found}, the same as training recorded")
    else:
        raise DigestError(
            f"digest {found} is not the {rows[number].digest} that training recorded for step {number}: the corpus or "
            f"the configuration in {run_dir} has changed since"
        )
    return 0


if __name__ == "__main__":
    run_command(main)
