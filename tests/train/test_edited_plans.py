"""A run that has begun goes on with another plan: what was trained stays, and the books follow what is served."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from data_pipelines.batches.record import read_data_record
from data_pipelines.diff import differing
from tests.train.runs import Result, run
from tests.train.small import SEQ_LEN, mesh, small_settings

STEPS, STOP = 13, 4
BATCH = 4
MIX = "data.mix={{general: {{random: {0}, more: {1}}}, high_quality: {{random: 1, more: 1}}, stem: {{random: 1}}}}"


class Begun(NamedTuple):
    """A run of two sources after STOP of its STEPS."""

    settings: list[str]
    run_dir: Path
    unbroken: Result


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    folder = tmp_path_factory.mktemp("edits")
    (folder / "second").mkdir()
    small_settings(folder / "second", document_tokens=90)
    settings = [*small_settings(folder), f"data.sources.more.train={folder / 'second/shards'}", "checkpoint.interval=2"]
    settings += mesh(shards=1, expert_ranks=1)
    unbroken = run([*settings, MIX.format(3, 1)], run_dir=folder / "unbroken", num_ranks=1)
    first = run([*settings, MIX.format(3, 1), f"run.stop_after_step={STOP}"], run_dir=folder / "run", num_ranks=1)
    assert (first.exit_codes, len(unbroken.rows)) == ([0], STEPS), first.output
    return Begun(settings, folder / "run", unbroken)


@pytest.fixture
def start(begun: Begun, tmp_path: Path) -> partial[Result]:
    """start(settings): goes on with a copy of the run."""
    shutil.copytree(begun.run_dir, tmp_path / "run", symlinks=True)
    return partial(lambda more: run([*begun.settings, *more], run_dir=tmp_path / "run", num_ranks=1))


def digests(result: Result) -> list[str]:
    return [row["batch_digest"] for row in result.rows]


def served(run_dir: Path, step: int) -> dict[str, dict[str, int]]:
    return json.loads((run_dir / f"checkpoint/step-{step}/data.json").read_text())["tokens"]


def test_windows_that_are_still_to_come_are_skipped(begun: Begun, start: partial[Result], tmp_path: Path) -> None:
    """Those of step 6: five steps are as they were, the run has a step less, and no book has their tokens."""
    result = start([MIX.format(3, 1), f"data.skip=[[{5 * BATCH}, {6 * BATCH}]]"])
    assert result.exit_codes == [0], result.output
    assert digests(result)[:5] == digests(begun.unbroken)[:5]
    assert digests(result)[5] != digests(begun.unbroken)[5]
    assert len(result.rows) == STEPS - 1
    book = served(tmp_path / "run", STEPS - 1)
    assert sum(sum(sources.values()) for sources in book.values()) == (STEPS - 1) * BATCH * SEQ_LEN


def test_windows_that_were_trained_cannot_be_skipped(start: partial[Result], tmp_path: Path) -> None:
    result = start([MIX.format(3, 1), f"data.skip=[[{2 * BATCH}, {3 * BATCH}]]"])
    assert result.exit_codes == [2], result.output
    assert "the order of the windows is another" in result.output
    assert len(result.rows) == STOP


def test_another_mix_is_refused_unless_it_is_appended(start: partial[Result]) -> None:
    result = start([MIX.format(1, 3)])
    assert result.exit_codes == [2], result.output
    assert "data.mix.general.random: is 1.0 now" in result.output


def test_an_appended_mix_begins_at_the_last_checkpoint_and_goes_on_over_a_restart(
    begun: Begun, start: partial[Result], tmp_path: Path
) -> None:
    edited = [MIX.format(1, 3), "data.edit=append"]
    part = start([*edited, "run.stop_after_step=6"])
    assert part.exit_codes == [0], part.output
    plan = read_data_record(tmp_path / "run").plan
    assert plan.phases[0].cut == STOP * BATCH
    assert differing(read_data_record(begun.run_dir).plan, plan)["first_difference"] == STOP * BATCH
    whole = start(edited)
    assert whole.exit_codes == [0], whole.output
    assert read_data_record(tmp_path / "run").plan == plan
    assert len(whole.rows) == STEPS
    assert digests(whole)[:STOP] == digests(begun.unbroken)[:STOP]
    assert digests(whole)[:6] == digests(part)
    before = served(begun.run_dir, STOP)["general"]
    after = served(tmp_path / "run", STEPS)["general"]
    assert after["more"] - before["more"] > after["random"] - before["random"]
