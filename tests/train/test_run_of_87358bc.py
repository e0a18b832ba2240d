"""A run directory that commit 87358bc made: it opens, evaluates, exports and goes on as it would have there.

tests/data/run_87358bc.tar.xz holds the run after step 6 of 13 (two ranks, EP 2), its shards and tokenizer, and what
that commit made of it then: the rows of steps 7 to 13, the loss on tokens.npy, the hash of its exported weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.train.runs import run
from tests.train.small import MODEL, SEQ_LEN, mesh
from train.evaluate import evaluate
from train.export import export

ARCHIVE = Path(__file__).parents[1] / "data" / "run_87358bc.tar.xz"
SETTINGS = [
    "experiment=smoke",
    *MODEL,
    f"training.seq_len={SEQ_LEN}",
    "schedule.token_scale=1e-10",
    "schedule.batch=[{from_tokens: 0, sequences: 4}]",
    "data=shards",
    "data.tokenizer=tokenizer",
    "data.sources.random.train=shards",
    "data.mix=null",
    "validation.windows=0",
    "metrics.wandb=disabled",
    "metrics.console=false",
    *mesh(shards=2, expert_ranks=2),
    "checkpoint.interval=3",
]
"""As that run was started, in the folder that is packed: its paths are relative."""
TIMINGS = ("seconds", "tokens_per_second")
OTHER_MACHINE = 1e-4
"""Relative. A CPU of another kind has other kernels, which add float32 in another order: 4e-8 of the loss in the first
step, more in each one after. Moments that are lost show as 9e-4 of the loss in the second step."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpacked, and the current folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "legacy")
    return tmp_path / "legacy"


def whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """What no machine rounds: step, tokens, digest of the batch, experts without a token, ..."""
    return {key: value for key, value in row.items() if not isinstance(value, float | dict)}


def measured(row: Mapping[str, Any]) -> dict[str, float]:
    """Without its timings; a figure of a layer beside the others; of the differences between losses, the losses."""
    figures = {key: value for key, value in row.items() if isinstance(value, float) and key not in TIMINGS}
    by_layer = {f"max_violation of {layer}": value for layer, value in row["max_violation_by_layer"].items()}
    return figures | by_layer | {"batch_het": row["loss"] + row["batch_het"]}


def test_its_loss_is_the_one_that_it_had(folder: Path) -> None:
    found = evaluate(folder / "run", folder / "tokens.npy", None)
    # float32: the order of sums, and so the last digits, depend on the number of threads
    assert found == pytest.approx(json.loads((folder / "evaluate.json").read_text()), rel=1e-6)


def test_its_exported_weights_are_those_that_it_had(folder: Path) -> None:
    export(folder / "run", folder / "hf", step=None, dtype="float32")
    (weights,) = (folder / "hf").glob("*.safetensors")
    expected = json.loads((folder / "export.json").read_text())["model.safetensors"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == expected


def test_it_goes_on_with_the_rows_that_it_would_have_had(folder: Path) -> None:
    result = run(SETTINGS, run_dir=folder / "run", num_ranks=2, hook=partial(os.chdir, folder))
    assert result.exit_codes == [0, 0], result.output
    expected = [json.loads(line) for line in (folder / "rows_7_to_13.jsonl").read_text().splitlines()]
    for row, would_have_had in zip(result.rows[6:], expected, strict=True):
        assert whole({key: row[key] for key in would_have_had}) == whole(would_have_had)
        assert measured({key: row[key] for key in would_have_had}) == pytest.approx(
            measured(would_have_had), rel=OTHER_MACHINE
        )
    assert result.output.count("checkpoints of this run do not say which tokenizer they had; the one of its data") == 1
    kept = (folder / "run/tokenizer/tokenizer.json").read_bytes()
    assert kept == (folder / "tokenizer/tokenizer.json").read_bytes()
    assert (folder / "run/checkpoint/step-13/tokenizer.sha256").read_text() == hashlib.sha256(kept).hexdigest()
