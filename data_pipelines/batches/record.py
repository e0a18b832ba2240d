"""plan.json: what a run directory keeps of its data, so that a step can be explained without the trainer.

Written whole or not at all. The plan is a pure function of what is in it, and its hash is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from pydantic import TypeAdapter, ValidationError

from data_pipelines.base.files import write_whole
from data_pipelines.plan.plan import Plan
from data_pipelines.plan.ramp import Ramp
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.storage import absolute
from data_pipelines.tokenizer.file import file_hash

FILE_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The data of a run: which windows, in which order, out of which shards, in which steps."""

    plan: Plan
    hash: str
    """Of the plan, as a checkpoint has it."""
    prepared: Prepared
    """Tokenizer and shards; local paths are absolute."""
    tokenizer_hash: str
    """sha256 of its tokenizer.json, 64 hex digits."""
    ramp: Ramp
    """Step -> windows."""
    held_out: dict[str, str] = field(default_factory=dict)
    """Source -> hash of its held-out tokens. Versions until 85d52f1 recorded none."""


def record_data(
    run_dir: Path, plan: Plan, prepared: Prepared, ramp: Ramp, *, held_out: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Writes <run_dir>/plan.json; the same again where it is there already. Raises ValueError, OSError."""
    record = DataRecord(
        plan=plan,
        hash=plan.hash,
        prepared=_from_anywhere(prepared),
        tokenizer_hash=file_hash(Path(prepared.tokenizer_dir)),
        ramp=ramp,
        held_out=dict(held_out),
    )
    write_whole(run_dir / FILE_NAME, json.dumps(asdict(record), indent=1) + "\n")


def differences(record: DataRecord, plan: Plan, held_out: Mapping[str, str], *, num_windows: int) -> list[str]:
    """Where the text of `plan` is not that which a run has recorded, a line a source; none where it is the same run, or
    goes on from its first `num_windows` windows."""
    sources = {source.name: source for source in record.plan.sources}
    problems = [
        f"source {source.name}: its text is another, {source.num_windows:,} windows of {plan.seq_len:,} tokens instead "
        f"of {sources[source.name].num_windows:,}"
        for source in plan.sources
        if source.name in sources and source != sources[source.name]
    ]
    problems += [
        f"source {name}: its held-out text is another; losses of validation could not be compared"
        for name in record.held_out
        if record.held_out[name] != held_out.get(name)
    ]
    if not problems and not plan.is_good_for(record.plan.hash, num_windows):
        problems.append(f"the order of the windows is another, plan {plan.hash} instead of {record.plan.hash}")
    return problems


def _from_anywhere(prepared: Prepared) -> Prepared:
    """The run may be read from another current folder than it was started in."""
    sources = {
        name: replace(source, train=absolute(source.train), held_out=source.held_out and absolute(source.held_out))
        for name, source in prepared.sources.items()
    }
    return Prepared(tokenizer_dir=absolute(prepared.tokenizer_dir), sources=sources)


def read_data_record(run_dir: Path) -> DataRecord:
    """Raises DataError where there is none, or where it is damaged."""
    path = run_dir / FILE_NAME
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: {run_dir} is no run directory, has not begun, or is of an earlier version; "
            "starting the run again writes it"
        )
    try:
        record = TypeAdapter(DataRecord).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({error.errors()[0]['msg']}); starting the run again writes it") from error
    if record.plan.hash != record.hash:
        raise DataError(
            f"{path} is damaged: its plan has hash {record.plan.hash}, not {record.hash} as recorded; starting the run "
            "again writes it"
        )
    return record
