"""train/loop/build.py: what a start that is refused later would have spoilt is not written before the first step."""

from __future__ import annotations

from pathlib import Path

from data_pipelines.base.compose import compose
from tests.train.small import mesh, small_settings
from train.config.check import check
from train.loop.build import trainer_config


def test_a_run_directory_gets_its_data_when_the_first_step_begins(tmp_path: Path) -> None:
    """The engine finds out whether they are those of the checkpoint that a run goes on from."""
    settings = [*small_settings(tmp_path / "data"), *mesh(shards=1, expert_ranks=1), f"run.dir={tmp_path / 'run'}"]
    (tmp_path / "run").mkdir()
    config = trainer_config(check(compose(settings)))
    assert list((tmp_path / "run").iterdir()) == []
    config.on_first_step()
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == ["plan.json", "tokenizer"]
