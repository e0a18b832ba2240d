"""launch/checks/corpus.py: tokens that are there, whole, enough."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.batches.record import record_data
from data_pipelines.plan.make_plan import make_plan
from data_pipelines.plan.plan import PlanSource
from data_pipelines.shards.manifest import FILE_NAME, Manifest
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.writer import ShardWriter
from tests.launch.checks.world import Fault, World, assert_found
from tests.train.small import write_run


def shards(world: World, part: str = "shards") -> Path:
    return world.folder / "data" / part


def without(world: World, name: str, part: str = "shards") -> None:
    (shards(world, part) / name).unlink()


def manifest(world: World, change: Any) -> None:
    """Rewrites the manifest of the training shards."""
    path = shards(world) / FILE_NAME
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def flipped(world: World) -> None:
    path = shards(world) / "00000.ds"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def cut(world: World) -> None:
    path = shards(world) / "00000.ds"
    path.write_bytes(path.read_bytes()[:1000])


def short_held_out(world: World) -> None:
    world.set("training.seq_len=32", "model.max_seq_len=32")
    folder = str(shards(world, "held_out"))
    with ShardWriter(folder, "00000", "uint16") as writer:
        writer.add("document", [4, 5, 6])
    replace(Manifest.load(folder), shards=(writer.record,)).save(folder)


def another_plan(world: World) -> None:
    """The run was trained on other tokens."""
    write_run(world.settings, world.run_dir)
    timeline = world.read().timeline
    plan = make_plan({"all": 10}, sources=[PlanSource(name="x", num_windows=3)], mix=None, seed=0, seq_len=32, block=4)
    prepared = Prepared(tokenizer_dir=str(world.folder / "data/tokenizer"), sources={})
    record_data(world.run_dir, plan, prepared, timeline.ramp)


def files(world: World, *overrides: str) -> None:
    world.settings = [text for text in world.settings if not text.startswith("data.")]
    world.set("data=files", "data.vocab_size=270", f"data.dir={world.folder}/prepared", *overrides)


def waiting_ranks(world: World) -> None:
    (world.folder / "text.txt").write_text("some text\n")
    files(world, f"data.sources.web.glob={world.folder}/*.txt")
    world.on_cluster()


FAULTS = {
    "no sources": Fault(lambda world: world.set("data.sources={}"), "fail", "data.sources is empty"),
    "no tokenizer named": Fault(lambda world: world.set("data.tokenizer=''"), "fail", "data.tokenizer is empty"),
    "shards that are not there": Fault(lambda world: without(world, FILE_NAME), "fail", r"manifest\.json is missing"),
    "file of a shard that is missing": Fault(
        lambda world: without(world, "00000.ds.index"), "fail", "index is missing"
    ),
    "shard that is cut": Fault(cut, "fail", r"expected [\d,]+ bytes, got 1,000"),
    "flipped bit": Fault(flipped, "fail", "differ from what the manifest recorded"),
    "damaged manifest": Fault(lambda world: (shards(world) / FILE_NAME).write_text("{"), "fail", "is no manifest"),
    "shards of another tokenizer": Fault(
        lambda world: manifest(world, lambda facts: facts.update(tokenizer="f" * 64)), "fail", "hash ffffffffffff"
    ),
    "ids beyond the model's": Fault(
        lambda world: manifest(world, lambda facts: facts["shards"][0].update(max_token_id=999)),
        "fail",
        "ids up to 999",
    ),
    "budget beyond the cap of epochs": Fault(
        lambda world: world.set("data.max_epochs=0.01"), "fail", r"data\.max_epochs=0\.01: phase 'general'"
    ),
    "text read over and over": Fault(
        lambda world: world.set("schedule.token_scale=1e-8"), "warning", r"random 8\.\d+; more than 4"
    ),
    "source shorter than a window": Fault(
        lambda world: world.set("training.seq_len=65536", "model.max_seq_len=65536", "schedule.token_scale=1e-7"),
        "fail",
        "every source is shorter than one window of seq_len=65536",
    ),
    "held-out text shorter than a window": Fault(short_held_out, "fail", "less than one window of seq_len=32"),
    "nothing held out": Fault(
        lambda world: world.set("data.sources.random.held_out=null"), "warning", "no source has held-out shards"
    ),
    "held-out shards that are not there": Fault(
        lambda world: without(world, FILE_NAME, "held_out"), "fail", r"held_out/manifest\.json is missing"
    ),
    "store without its package": Fault(
        lambda world: world.set("data.sources.random.train=nostore://bucket/web"), "fail", "nostore"
    ),
    "run of other tokens": Fault(another_plan, "fail", "was trained on data plan"),
    "glob that matches nothing": Fault(
        lambda world: files(world, "data.sources.web.glob=/nowhere/*.txt"), "fail", "no file matches"
    ),
    "files of no source": Fault(lambda world: files(world), "fail", "data.sources is empty"),
    "text that ranks would wait for": Fault(waiting_ranks, "warning", "4 ranks would wait for one"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])
