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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpacked, and the current folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "legacy")
    return tmp_path / "legacy"


def untimed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMINGS}


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
    assert [untimed(row) for row in result.rows[6:]] == [untimed(row) for row in expected]
