"""The real program on 1, 2 and 4 ranks: killed and started again, on other meshes, exported, and given bad input."""

from __future__ import annotations

import math
import resource
import shutil
import signal
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.base.errors import CONFIG_EXIT, REQUEUE_EXIT, RUN_EXIT
from data_pipelines.corpora.files import FilesData, FileSource
from data_pipelines.corpora.preparation import prepare
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.tree import BLOCK_BYTES
from data_pipelines.shards.writer import ShardWriter
from tests.train.runs import Kill, Result, run
from train.checkpoint.commits import committed_steps
from train.metrics.jsonl import read_rows
from train.process.starts import read_events

STDLIB = sysconfig.get_path("stdlib")
SOURCES = {"code": f"{STDLIB}/asyncio/*.py", "prose": f"{STDLIB}/email/*.py", "stem": f"{STDLIB}/unittest/*.py"}
VOCAB_SIZE = 512
SEQ_LEN = 64

# 17T tokens become 136 windows of 64 tokens: phases of 80, 32 and 24. Steps 1 to 5 are of 8 windows and fill the 39.2
# of 4.9T; the others are of 16. So step 8 (windows 72 to 87) and step 10 (104 to 119) hold the phase edges, step 11 is
# the last, and checkpoints are due at 4, 8, 10 and 11.
NUM_STEPS, RAMP_STEP, EDGE_STEP = 11, 6, 8
SMALL = [
    "experiment=smoke",
    f"model.vocab_size={VOCAB_SIZE}",
    "model.num_layers=4",  # dense, local; two of MoE, local; one of MoE, global
    "model.num_dense_layers=1",
    "model.num_experts=8",
    "model.sliding_window=16",
    f"training.seq_len={SEQ_LEN}",
    "schedule.token_scale=5.12e-10",
    "schedule.batch=[{from_tokens: 0, sequences: 8}, {from_tokens: 4.9T, sequences: 16}]",
    "checkpoint.interval=4",
    "validation.windows=4",
    "metrics.wandb=disabled",
    "metrics.console=false",
    "metrics.panels_every=3",
    "metrics.heatmap_every=5",
]
MESHES = {  # name -> replicas, shards, expert ranks
    "1 rank": (1, 1, 1),
    "1 x 2, EP 2": (1, 2, 2),
    "2 x 2, EP 2": (2, 2, 2),
}
WHOLE = ("1 rank", "2 x 2, EP 2")
"""Meshes on which a run is let through to its end. That all meshes compute the same: test_meshes.py."""
STOP = Kill(rank=2, step=2, number=signal.SIGUSR1)
"""Before a checkpoint is due, to a rank that writes no rows."""
KILLS = {  # the rank differs too: the one that writes rows and commits checkpoints, and others
    "as the batch ramps up": Kill(rank=1, step=RAMP_STEP - 1),
    "at a phase edge": Kill(rank=0, step=EDGE_STEP),
    "in the middle": Kill(rank=3, step=EDGE_STEP + 1),
}


def mesh(name: str) -> list[str]:
    replicas, shards, expert_ranks = MESHES[name]
    return [
        f"parallelism.data_parallel_replicate_degree={replicas}",
        f"parallelism.data_parallel_shard_degree={shards}",
        f"parallelism.expert_parallel_degree={expert_ranks}",
    ]


def as_overrides(sources: dict[str, dict[str, str]]) -> list[str]:
    return [f"data.sources.{name}.{key}='{value}'" for name, pair in sources.items() for key, value in pair.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Prepared:
    sources = {name: FileSource(glob=glob) for name, glob in SOURCES.items()}
    return prepare(FilesData(dir=str(folder / "data"), vocab_size=VOCAB_SIZE, held_out=0.2, sources=sources)).prepared


@pytest.fixture(scope="module")
def shards(prepared: Prepared) -> dict[str, dict[str, str]]:
    """What `data.sources` names with data=shards: the prepared shards of each source."""
    return {
        name: {"train": source.train, "held_out": str(source.held_out)} for name, source in prepared.sources.items()
    }


@pytest.fixture(scope="module")
def small(prepared: Prepared, shards: dict[str, dict[str, str]]) -> list[str]:
    """The smoke experiment in some seconds."""
    return [
        *SMALL,
        "data=shards",
        "data.mix=proportional",
        f"data.tokenizer={prepared.tokenizer_dir}",
        *as_overrides(shards),
    ]


@pytest.fixture(scope="module")
def finished(small: list[str], folder: Path) -> dict[str, Result]:
    """An uninterrupted run on each mesh of WHOLE."""
    return {
        name: run([*small, *mesh(name)], run_dir=folder / f"mesh{number}", num_ranks=math.prod(MESHES[name][:2]))
        for number, name in enumerate(WHOLE)
    }


@pytest.fixture(scope="module")
def one_rank_dir(finished: dict[str, Result], folder: Path) -> Path:
    return folder / f"mesh{WHOLE.index('1 rank')}"


def loss_norm_digest(result: Result) -> list[tuple]:
    return [(row["step"], row["loss"], row["grad_norm"], row["batch_digest"]) for row in result.rows]


# Kill and resume


@pytest.fixture(scope="module")
def stopped(small: list[str], folder: Path) -> tuple[Result, list[int]]:
    """A run that is asked to stop, and the checkpoints that it has then."""
    result = run([*small, *mesh("2 x 2, EP 2")], run_dir=folder / "killed", num_ranks=4, kill=STOP)
    return result, committed_steps(folder / "killed/checkpoint")


@pytest.fixture(scope="module")
def killed(stopped: tuple[Result, list[int]], small: list[str], folder: Path) -> dict[str, Result]:
    """The same run, which is then killed three times, in the order of KILLS."""
    command = [*small, *mesh("2 x 2, EP 2")]
    return {name: run(command, run_dir=folder / "killed", num_ranks=4, kill=kill) for name, kill in KILLS.items()}


@pytest.fixture(scope="module")
def resumed(killed: dict[str, Result], small: list[str], folder: Path) -> Result:
    return run([*small, *mesh("2 x 2, EP 2")], run_dir=folder / "killed", num_ranks=4)


def test_a_signal_to_one_rank_stops_all_of_them_after_one_step_with_a_checkpoint(stopped, killed, folder):
    result, checkpoints = stopped
    assert result.exit_codes == [REQUEUE_EXIT] * 4, result.output
    assert checkpoints == [len(result.rows)]
    assert STOP.step <= len(result.rows) <= STOP.step + 2  # one row may be written before the signal is sent
    following = killed[next(iter(KILLS))]
    assert f"going on after step {checkpoints[0]} of {NUM_STEPS}" in following.output
    start, end = read_events(folder / "killed")[:2]
    assert (start["event"], start["step"], start["ranks"], start["job"]) == ("start", 0, 4, None)
    assert (end["event"], end["step"], end["exit_code"]) == ("end", checkpoints[0], REQUEUE_EXIT)


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_had_not_ended(killed, name):
    assert killed[name].exit_codes[KILLS[name].rank] == -9, killed[name].output
    assert KILLS[name].step <= len(killed[name].rows) < NUM_STEPS


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_went_on_from_its_last_complete_checkpoint(killed, resumed, name):
    results = [*killed.values(), resumed]
    following = results[list(KILLS).index(name) + 1]
    expected = [4, 8] if KILLS[name].step == EDGE_STEP else [KILLS[name].step - 1]  # 8 is saved as the kill falls
    assert any(f"going on after step {step} of {NUM_STEPS}" in following.output for step in expected)


def test_after_every_kill_the_rows_are_bitwise_those_of_an_uninterrupted_run(finished, stopped, killed, resumed):
    expected = loss_norm_digest(finished["2 x 2, EP 2"])
    assert resumed.exit_codes == [0] * 4, resumed.output
    assert loss_norm_digest(resumed) == expected
    for result in (stopped[0], *killed.values()):
        assert loss_norm_digest(result) == expected[: len(result.rows)]


def test_a_finished_run_started_again_does_nothing(finished, one_rank_dir, small):
    again = run([*small, *mesh("1 rank")], run_dir=one_rank_dir, num_ranks=1)
    assert again.exit_codes == [0], again.output
    assert again.rows == finished["1 rank"].rows


# Meshes


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_ends_well(finished, name):
    assert not any(finished[name].exit_codes), finished[name].output
    assert [row["step"] for row in finished[name].rows] == list(range(1, NUM_STEPS + 1))


def test_4_ranks_read_the_1_rank_batches_across_phases_and_the_ramp(finished):
    one, four = ([row["batch_digest"] for row in finished[name].rows] for name in WHOLE)
    assert one == four
    assert len(set(one)) == NUM_STEPS


def test_a_checkpoint_of_4_ranks_goes_on_on_1(finished, small, folder, tmp_path):
    number = WHOLE.index("2 x 2, EP 2")
    shutil.copytree(folder / f"mesh{number}", tmp_path / "run", ignore=shutil.ignore_patterns("step-1?"))
    moved = run([*small, *mesh("1 rank")], run_dir=tmp_path / "run", num_ranks=1)
    assert "going on after step 8" in moved.output
    expected = finished["2 x 2, EP 2"].rows
    assert [row["batch_digest"] for row in moved.rows] == [row["batch_digest"] for row in expected]
    # float32 sums in another order, for three steps
    assert [row["loss"] for row in moved.rows] == pytest.approx([row["loss"] for row in expected], rel=1e-5)


# Balance, seen


def test_panels_are_in_the_rows_that_are_due(finished):
    panels = {row["step"]: row["by_layer"] for row in finished["2 x 2, EP 2"].rows if "by_layer" in row}
    assert list(panels) == [3, 6, 9]
    for step, by_layer in panels.items():
        violations = finished["2 x 2, EP 2"].rows[step - 1]["max_violation_by_layer"]
        assert by_layer["max_violation"] == violations
        assert set(by_layer["bias_spread"]) == {"1", "2", "3"}
        assert all(0 < value < 1 for value in by_layer["load_entropy"].values())
        assert all(2 / 8 <= value < 1 for value in by_layer["routing_confidence"].values())


def test_panels_of_4_ranks_are_those_of_1(finished):
    """Sums and maxima over ranks: one that was forgotten would show as a factor."""
    one, four = (finished[name].rows[2]["by_layer"] for name in ("1 rank", "2 x 2, EP 2"))
    for name, by_layer in one.items():
        assert four[name] == pytest.approx(by_layer, rel=1e-3, abs=1e-6), name  # float32, two updates apart


def test_groups_of_layers_are_what_a_dashboard_shows(finished):
    (row,) = [row for row in finished["1 rank"].rows if row["step"] == 3]
    assert list(row["balance"]) == ["early", "middle", "late"]
    assert [group["max_violation"] for group in row["balance"].values()] == list(row["max_violation_by_layer"].values())


def test_the_loads_are_drawn(finished, one_rank_dir):
    assert {row["step"]: row["loads"] for row in finished["1 rank"].rows if "loads" in row} == {
        5: str(one_rank_dir / "loads.png"),
        10: str(one_rank_dir / "loads.png"),
    }
    assert (one_rank_dir / "loads.png").stat().st_size > 1000


def test_a_collapse_warns_and_stops_all_ranks_where_that_is_wanted(small, tmp_path):
    alarm = ["balance.alarm.max_violation=0.01", "balance.alarm.steps=2", "balance.alarm.stop=true"]
    result = run([*small, *mesh("1 x 2, EP 2"), *alarm], run_dir=tmp_path / "run", num_ranks=2)
    refused(result, "step 2: experts collapsed (steps in a row: 2); layer 1: MaxVio", exit_code=RUN_EXIT)
    assert ["alarm" in row for row in result.rows] == [False, True]


def poison_a_router() -> None:
    """One weight of the gate of layer 2 becomes NaN before step 2, on rank 1 alone."""
    import os

    import torch

    from train.afmoe.decoder import moe_layers
    from train.loop.trainer import Trainer

    train_step = Trainer.train_step

    def train_step_poisoned(self, data_iterator):
        if self.step == 2 and os.environ["RANK"] == "1":
            gate = dict(moe_layers(self.model))["2"].router.gate
            gate.weight.detach().to_local()[0, 0] = math.nan
        biases = [layer.expert_bias_E.clone() for _, layer in moe_layers(self.model)]
        try:
            train_step(self, data_iterator)
        finally:
            after = [layer.expert_bias_E for _, layer in moe_layers(self.model)]
            print(f"step {self.step} changed biases: {not all(map(torch.equal, biases, after))}")

    Trainer.train_step = train_step_poisoned


def test_a_nan_in_the_router_stops_all_ranks_and_names_the_layer(small, tmp_path):
    result = run([*small, *mesh("1 x 2, EP 2")], run_dir=tmp_path / "run", num_ranks=2, hook=poison_a_router)
    refused(result, "step 2", "loss is nan", "router of layer 2 (its logits or its input) is nan", exit_code=RUN_EXIT)
    assert "layer 3" not in result.output  # NaN as well, because of layer 2
    assert result.output.count("step 1 changed biases: True") == 2
    assert result.output.count("step 2 changed biases: False") == 2


# Rows


KEYS = {
    *("accuracy", "lm_logit_max", "lm_logsumexp", "max_violation_by_layer", "dead_experts"),
    *("step", "tokens", "phase", "loss", "z_loss", "balance_loss", "grad_norm", "lr_muon", "lr_adamw", "global_batch"),
    *("max_violation", "batch_het", "tokens_per_second", "mfu", "batch_digest"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_row_has_the_keys_that_other_tools_read(finished, name):
    for row in finished[name].rows:
        assert set(row) >= KEYS


def test_rows_follow_the_schedule(finished):
    rows = finished["1 rank"].rows
    assert [row["global_batch"] for row in rows] == [8] * 5 + [16] * 6
    assert [row["tokens"] for row in rows] == list(np.cumsum([8] * 5 + [16] * 6) * SEQ_LEN)
    # the phase of a step is that of its first window: 72 and 104 are still before the edges at 80 and 112
    assert [row["phase"] for row in rows] == ["general"] * 8 + ["high_quality"] * 2 + ["stem"]
    assert [row["step"] for row in rows if "validation" in row] == [4, 8, 10, 11]
    assert all(set(row["validation"]) == set(SOURCES) for row in rows if "validation" in row)


# Export


def test_the_export_is_the_model(one_rank_dir, folder):
    import torch
    from transformers import AfmoeForCausalLM

    from train.evaluate import evaluate
    from train.export import export

    tokens = np.random.default_rng(0).integers(4, VOCAB_SIZE, (6, SEQ_LEN + 1))
    np.save(folder / "tokens.npy", tokens)
    export(one_rank_dir, folder / "hf", step=None, dtype="float32")
    model, loading = AfmoeForCausalLM.from_pretrained(folder / "hf", output_loading_info=True)  # type: ignore[misc]
    assert {kind: list(keys) for kind, keys in loading.items() if keys} == {}
    with torch.no_grad():
        logits_RSV = model(torch.from_numpy(tokens[:, :-1])).logits
    theirs = torch.nn.functional.cross_entropy(logits_RSV.flatten(0, 1), torch.from_numpy(tokens[:, 1:]).flatten())
    ours = evaluate(one_rank_dir, folder / "tokens.npy", None)
    assert ours["step"] == NUM_STEPS
    assert ours["tokens"] == 6 * SEQ_LEN
    assert ours["loss"] == pytest.approx(theirs.item(), abs=1e-4)  # float32 in other kernels


# Bad input: a message that names the thing, an exit code, and nothing lost


def refused(result: Result, *words: str, exit_code: int = CONFIG_EXIT) -> None:
    assert result.exit_codes == [exit_code] * len(result.exit_codes), result.output
    for word in words:
        assert word in result.output


def test_a_run_directory_of_another_configuration_is_refused(one_rank_dir, small):
    rows, config = read_rows(one_rank_dir), (one_rank_dir / "config.yaml").read_text()
    result = run([*small, *mesh("1 rank"), "model.top_k=1"], run_dir=one_rank_dir, num_ranks=1)
    refused(result, "model.top_k", str(one_rank_dir))
    assert (read_rows(one_rank_dir), (one_rank_dir / "config.yaml").read_text()) == (rows, config)


def test_an_unwritable_run_directory_is_refused(small, tmp_path):
    (tmp_path / "file").touch()  # permissions would not stop a test that root runs
    refused(run([*small, *mesh("1 rank")], run_dir=tmp_path / "file" / "run", num_ranks=1), "run.dir", "cannot be")


def test_another_number_of_ranks_than_the_mesh_is_refused(small, tmp_path):
    refused(run([*small, *mesh("2 x 2, EP 2")], run_dir=tmp_path / "run", num_ranks=2), "parallelism", "4", "2")


def test_a_glob_that_matches_nothing_is_refused(tmp_path):
    settings = [*SMALL, *mesh("1 rank"), "data=files", "data.mix=proportional", f"data.vocab_size={VOCAB_SIZE}"]
    settings += [f"data.dir={tmp_path}/data", f"data.sources.mine.glob={tmp_path}/nowhere/*.txt"]
    refused(run(settings, run_dir=tmp_path / "run", num_ranks=1), "no file matches", "nowhere/*.txt")


@pytest.fixture
def damaged(small: list[str], shards: dict[str, dict[str, str]], tmp_path: Path) -> tuple[Path, list[str]]:
    """(a private copy of the prose shards, to be damaged; a command that trains on it)"""
    private = tmp_path / "prose"
    shutil.copytree(shards["prose"]["train"], private)
    return private, [*small, f"data.sources.prose.train={private}", *mesh("1 rank")]


def test_a_truncated_shard_is_refused(damaged, tmp_path):
    private, command = damaged
    shard = next(private.glob("*.ds"))
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 2)
    refused(run(command, run_dir=tmp_path / "run", num_ranks=1), str(shard), "expected", "bytes")


def test_a_flipped_byte_is_found_before_it_is_trained_on(damaged, tmp_path):
    private, command = damaged
    shard = next(private.glob("*.ds"))
    content = bytearray(shard.read_bytes())
    for offset in range(0, len(content), BLOCK_BYTES):  # only the blocks that a window needs are read
        content[offset] ^= 1
    shard.write_bytes(content)
    result = run(command, run_dir=tmp_path / "run", num_ranks=1)
    refused(result, str(shard), "differ", exit_code=RUN_EXIT)
    assert result.rows == []


def test_token_ids_beyond_the_vocabulary_are_refused(damaged, tmp_path):
    private, command = damaged
    tokenizer = Manifest.load(str(private)).tokenizer
    shutil.rmtree(private)
    with ShardWriter(str(private), "00000", "uint16") as writer:
        writer.add("bad", [7] * 4 * SEQ_LEN + [VOCAB_SIZE, 1])
    Manifest(dtype="uint16", eos_id=1, tokenizer=tokenizer, shards=(writer.record,)).save(str(private))
    refused(run(command, run_dir=tmp_path / "run", num_ranks=1), str(private), f"model.vocab_size={VOCAB_SIZE}")


def fill_the_disk() -> None:
    """From the second checkpoint on, no file of this rank can grow beyond some bytes. (SIGXFSZ: Python ignores it.)"""
    import os

    from train.checkpoint.manager import Checkpoints

    save = Checkpoints._save

    def save_on_full_disk(self, curr_step, last_step=False):
        if curr_step == 2 and os.environ["RANK"] == "1":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        return save(self, curr_step, last_step)

    Checkpoints._save = save_on_full_disk


def test_a_full_disk_leaves_the_last_checkpoint_valid(small, tmp_path):
    from train.checkpoint.reader import load_model
    from train.config.check import load_run

    command = [*small, *mesh("1 x 2, EP 2"), "checkpoint.interval=1"]
    result = run(command, run_dir=tmp_path / "run", num_ranks=2, hook=fill_the_disk)
    refused(result, "checkpoint of step 2", "step-1 is complete", "File too large", exit_code=RUN_EXIT)
    assert [entry.name for entry in (tmp_path / "run/checkpoint").iterdir()] == ["step-1"]
    assert committed_steps(tmp_path / "run/checkpoint") == [1]
    stored = load_run(tmp_path / "run")
    load_model(stored.checkpoint_dir, stored.model, seq_len=stored.timeline.seq_len)


def poison_a_gradient() -> None:
    """One NaN on rank 1 in step 2; says afterwards whether the weights of this rank are bitwise what they were."""
    import os

    import torch

    from train.loop.trainer import Trainer

    clip, train_step = Trainer._clip, Trainer.train_step

    def clip_poisoned(self):
        if self.step == 2 and os.environ["RANK"] == "1":
            self.model.tok_embeddings.weight.grad.to_local().flatten()[0] = math.nan
        return clip(self)

    def train_step_compared(self, data_iterator):
        before = [weight.detach().to_local().clone() for weight in self.model.parameters()]
        try:
            train_step(self, data_iterator)
        finally:
            after = [weight.detach().to_local() for weight in self.model.parameters()]
            print(f"step {self.step} changed weights: {not all(map(torch.equal, before, after))}")

    Trainer._clip, Trainer.train_step = clip_poisoned, train_step_compared


def test_a_nan_gradient_stops_all_ranks_before_a_weight_changes(small, tmp_path):
    result = run([*small, *mesh("1 x 2, EP 2")], run_dir=tmp_path / "run", num_ranks=2, hook=poison_a_gradient)
    refused(result, "step 2", "gradient norm is nan", "--step 2", exit_code=RUN_EXIT)
    assert result.output.count("step 1 changed weights: True") == 2
    assert result.output.count("step 2 changed weights: False") == 2
    assert len(result.rows) == 1


def test_a_damaged_checkpoint_is_named_with_the_one_before_it(finished, one_rank_dir, small, tmp_path):
    shutil.copytree(one_rank_dir, tmp_path / "run")
    shard = next((tmp_path / f"run/checkpoint/step-{NUM_STEPS}").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    result = run([*small, *mesh("1 rank")], run_dir=tmp_path / "run", num_ranks=1)
    refused(result, f"{shard}: cannot be read", "delete it to go on from step-10", exit_code=RUN_EXIT)
