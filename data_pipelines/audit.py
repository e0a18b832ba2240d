"""Was a run trained on the batches that its plan and its shards give? Reads them all again.

    python -m data_pipelines.audit runs/smoke
    python -m data_pipelines.audit runs/large --from-step 90001 --to-step 90500 --workers 32

Each step's digest is computed from the shards and compared with its row in metrics.jsonl, the chain of the digests with
the rows and with data.json of each checkpoint, and the tokens in there with the plan. A run may go on meanwhile: what
it has finished is read. Exit code 1 names the first step that differs.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import os
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, DAMAGE_EXIT, RUN_EXIT, RunError, answers_errors
from data_pipelines.base.progress import progress_bar
from data_pipelines.base.workers import run_each
from data_pipelines.batches.account import START, Account, account_problems, link, read_account
from data_pipelines.batches.record import DataRecord, read_data_record
from data_pipelines.batches.rows import DataRow, data_rows
from data_pipelines.explain import DigestError, open_sources, step_digest
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.source import TokenSource

STEPS_AT_ONCE = 16
"""Steps that a worker gets at a time: a few seconds of work, which is what a killed audit loses of its progress bar."""

_opened: dict[Path, tuple[DataRecord, dict[str, TokenSource]]] = {}
"""In a worker: the run that it reads."""


@dataclass(frozen=True)
class Chunk:
    """Steps of a run, for one worker."""

    run_dir: Path
    steps: range


def digests_of(chunk: Chunk) -> dict[int, str]:
    """Step -> digest of its batch, 16 hex digits, from the shards. Raises DataError for what is missing or damaged."""
    if chunk.run_dir not in _opened:
        record = read_data_record(chunk.run_dir)
        _opened[chunk.run_dir] = record, open_sources(record)
    record, sources = _opened[chunk.run_dir]
    return {step: f"{step_digest(record.plan, sources, record.ramp.windows(step)):016x}" for step in chunk.steps}


def first_difference(
    digests: Mapping[int, str], rows: Mapping[int, DataRow], books: Mapping[int, Account], *, chain: str | None
) -> str | None:
    """The first step, in their order, where what the shards give is not what the run recorded; None where all agree.

    books: step -> those of its checkpoint. chain: before the first of `digests`; None where it is not known. Pure.
    """
    for step, digest in sorted(digests.items()):
        row, book = rows.get(step), books.get(step)
        if row and row.digest != digest:
            return f"step {step}: the shards give digest {digest}, its row says {row.digest}"
        if book and book.digest and book.digest != digest:
            return f"step {step}: the shards give digest {digest}, its checkpoint says {book.digest}"
        if chain is None:  # the first row with a chain says what it was before
            chain = row.chain if row and row.chain else book.chain if book and book.digest else None
            continue
        chain = link(chain, step, digest)
        if row and row.chain and row.chain != chain:
            return f"step {step}: the shards give chain {chain}, its row says {row.chain}; an earlier row was changed"
        if book and book.digest and book.chain != chain:
            return f"step {step}: the shards give chain {chain}, its checkpoint says {book.chain}"
    return None


def audit(run_dir: Path, *, from_step: int, to_step: int | None, workers: int) -> str:
    """What was compared, in words. Raises DigestError for the first step that differs, DataError for broken shards."""
    record = read_data_record(run_dir)
    open_sources(record)  # what is gone is said at once, and by one process
    rows = data_rows(run_dir)
    books = checkpoint_books(run_dir)
    last = max([0, *rows, *books])
    stop = to_step or last
    if not from_step <= stop <= last:
        raise ValueError(
            f"--from-step={from_step} --to-step={to_step or last}: {run_dir} has finished steps 1 to {last}; choose "
            "some of those"
        )
    for step, book in sorted(books.items()):
        window = record.ramp.windows(step).stop
        if problems := account_problems(book, record.plan, step=step, next_window=window):
            raise DigestError(f"step {step}: its checkpoint's data.json: {'; '.join(problems)}")
    try:
        digests = _read_all(run_dir, range(from_step, stop + 1), workers)
    except DataError as error:
        raise DigestError(str(error)) from error
    if difference := first_difference(digests, rows, books, chain=_chain_before(from_step, rows, books)):
        raise DigestError(f"{run_dir}: {difference}. The shards or the record of the run have changed since")
    compared = sum(step in digests for step in books)
    missing = len(digests) - sum(step in rows for step in digests)
    windows = record.ramp.windows(stop).stop - record.ramp.windows(from_step).start
    return (
        f"{run_dir}: steps {from_step:,} to {stop:,}, {windows * record.plan.seq_len:,} tokens: the shards give what "
        f"{len(digests) - missing:,} rows and {compared} checkpoints recorded"
        + (f"; {missing:,} steps have no row" if missing else "")
    )


def _chain_before(step: int, rows: Mapping[int, DataRow], books: Mapping[int, Account]) -> str | None:
    """The chain that `step` is linked to; a later part of a run is compared from what the row before it says."""
    if step == 1 and all(book.first_step == 1 for book in books.values()) and (1 not in rows or rows[1].chain):
        return START
    if step - 1 in books:
        return books[step - 1].chain
    return rows[step - 1].chain or None if step - 1 in rows else None


def checkpoint_books(run_dir: Path) -> dict[int, Account]:
    """Step -> the books of each checkpoint that has them. Raises DataError where some are damaged."""
    found = {}
    for path in run_dir.glob("*/step-*/data.json"):
        name = path.parent.name.removeprefix("step-")
        if name.isdecimal() and not path.parent.is_symlink() and not path.parts[-3].startswith("rewound"):
            try:
                account = read_account(path.parent)
            except DataError as error:
                if path.exists():
                    raise DigestError(f"step {name}: {error}") from error
                continue  # a run that goes on deletes its old checkpoints
            if account:
                found[int(name)] = account
    return found


def _read_all(run_dir: Path, steps: range, workers: int) -> dict[int, str]:
    chunks = [steps[start : start + STEPS_AT_ONCE] for start in range(0, len(steps), STEPS_AT_ONCE)]
    items = {f"steps {chunk[0]} to {chunk[-1]}": Chunk(run_dir, chunk) for chunk in chunks}
    digests: dict[int, str] = {}
    with progress_bar(total=len(steps), unit=" steps", desc="audit") as bar:

        def done(_: str, found: dict[int, str]) -> None:
            digests.update(found)
            bar.update(len(found))

        run_each(digests_of, items, done, workers=workers)
    return digests


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


@answers_errors({DigestError: DAMAGE_EXIT, RunError: RUN_EXIT, ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.audit", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    step = partial(parser.add_argument, type=_count, metavar="N")
    step("--from-step", default=1, help="first step to read (default: 1)")
    step("--to-step", help="last step to read (default: the last that is finished)")
    step("--workers", default=len(os.sched_getaffinity(0)), help="processes that read (default: one a core)")
    args = parser.parse_args(arguments)
    print(audit(args.run, from_step=args.from_step, to_step=args.to_step, workers=args.workers))
    return 0


if __name__ == "__main__":
    run_command(main)
