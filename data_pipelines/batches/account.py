"""What a checkpoint knows of the data that it was trained on: tokens as they were served, and a chain of digests. Pure.

    chain_k = hash(chain_(k-1), step k, digest of its global batch)

One chain stands for all batches before it, in their order. It lies beside the weights in data.json, and in each row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import xxhash
from pydantic import TypeAdapter

from data_pipelines.plan.ledger import Ledger, ledger
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.manifest import DataError

FILE_NAME = "data.json"
START = "0" * 32
"""The chain before its first step."""


def link(chain: str, step: int, digest: str) -> str:
    """The chain after `step`, 32 hex digits. digest: batch_digest of its row, 16 hex digits."""
    return xxhash.xxh3_128_hexdigest(f"{chain} {step} {digest}".encode())


@dataclass(frozen=True, kw_only=True)
class Account:
    """The books after `step`; the same on every rank."""

    step: int = 0
    next_window: int = 0
    first_step: int = 1
    """The chain's first: later than 1 in a run whose first steps an earlier version trained."""
    tokens: Ledger
    """Phase -> source -> target tokens, counted in what was served."""
    before: str = START
    """The chain before `step`."""
    digest: str = ""
    """Of the batch of `step`, 16 hex digits; empty where the chain has not begun."""
    chain: str = START

    def add(self, step: int, digest: str, tokens: Sequence[Sequence[int]], next_window: int) -> Account:
        """The books after one step more. tokens: of it, [phases][sources] in the order of `self.tokens`."""
        added = {
            phase: {
                source: self.tokens[phase][source] + int(count)
                for source, count in zip(self.tokens[phase], counts, strict=True)
            }
            for phase, counts in zip(self.tokens, tokens, strict=True)
        }
        chain = link(self.chain, step, digest)
        return replace(
            self, step=step, next_window=next_window, tokens=added, before=self.chain, digest=digest, chain=chain
        )

    def under(self, plan: Plan) -> Account:
        """The same books, with a place for every phase and source of a plan that goes on from theirs."""
        return replace(self, tokens=_whole(plan, self.tokens))

    @property
    def text(self) -> str:
        """What stands in data.json."""
        return json.dumps(asdict(self), indent=1) + "\n"


def open_account(plan: Plan, *, step: int = 0, next_window: int = 0) -> Account:
    """The books of a run that has none at `step`: as the plan has it, with a chain that begins after it."""
    return Account(
        step=step, next_window=next_window, first_step=step + 1, tokens=_whole(plan, ledger(plan, next_window))
    )


def _whole(plan: Plan, counted: Mapping[str, Mapping[str, int]]) -> Ledger:
    """With every phase and source, also those that get nothing."""
    return {
        phase: {source.name: counted.get(phase, {}).get(source.name, 0) for source in plan.sources}
        for phase in plan.phase_names
    }


def read_account(checkpoint: Path) -> Account | None:
    """The books of a checkpoint; None where an earlier version saved it. Raises DataError where they are damaged."""
    path = checkpoint / FILE_NAME
    if not os.path.lexists(path):
        return None
    try:
        account = TypeAdapter(Account).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); go on from an earlier checkpoint, or restore it") from error
    expected = link(account.before, account.step, account.digest) if account.digest else START
    if account.chain != expected:
        raise DataError(
            f"{path} is damaged: its chain {account.chain} does not follow from its last step (expected {expected}); "
            "go on from an earlier checkpoint, or restore it"
        )
    return account


def account_problems(account: Account, plan: Plan, *, step: int, next_window: int) -> list[str]:
    """Where the books are not those of the plan after `step`, a line each; none where they agree."""
    problems = []
    if (account.step, account.next_window) != (step, next_window):
        problems.append(
            f"the books are of step {account.step:,} and window {account.next_window:,}, the weights of step {step:,} "
            f"and window {next_window:,}"
        )
    planned = _whole(plan, ledger(plan, next_window))
    cells = {(phase, source) for book in (planned, account.tokens) for phase in book for source in book[phase]}
    for phase, source in sorted(cells):
        served, due = (book.get(phase, {}).get(source, 0) for book in (account.tokens, planned))
        if served != due:
            problems.append(f"phase {phase}, source {source}: {served:,} tokens were served, the plan has {due:,}")
    return problems
