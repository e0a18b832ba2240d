"""train/cluster/ and its rules: a cluster that cannot hold the run is refused before anything is queued."""

from __future__ import annotations

import re

import pytest

from data_pipelines.base.command import CONFIGS
from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from train.config.check import check
from train.config.run import Run


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def checked(*overrides: str) -> Run:
    return check(compose(list(overrides)))


def problems_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        checked("experiment=smoke", "cluster=cpu_2nodes", *overrides)
    return refusal.value.problems


@pytest.mark.parametrize(
    ("experiment", "cluster", "nodes"),
    [
        ("smoke", "cpu_2nodes", 2),
        ("trinity_large", "h100_256nodes", 256),
        ("trinity_large", "b300_256nodes", 256),
        ("trinity_nano", "h100_pyxis", 64),  # 512 ranks
    ],
)
def test_a_shipped_cluster_holds_its_recipe(experiment: str, cluster: str, nodes: int) -> None:
    run = checked(f"experiment={experiment}", f"cluster={cluster}")
    assert run.cluster is not None
    assert run.world_size == nodes * run.cluster.ranks_per_node


def test_every_shipped_cluster_is_read() -> None:
    for path in (CONFIGS / "cluster").glob("*.yaml"):
        mesh = ["parallelism.data_parallel_replicate_degree=1", "parallelism.expert_parallel_degree=1"]
        of_cluster = compose([f"cluster={path.stem}", "run.name=x"])["cluster"]
        ranks = (of_cluster.get("nodes") or 1) * (of_cluster.get("gpus_per_node") or 2)
        batch = f"schedule.batch=[{{from_tokens: 0, sequences: {ranks}}}]"
        shards = f"parallelism.data_parallel_shard_degree={ranks}"
        overrides = ["experiment=smoke", *mesh, batch, shards] if path.stem != "none" else ["experiment=smoke"]
        run = checked(*overrides, f"cluster={path.stem}")
        assert (run.cluster is None) == (path.stem == "none")
        assert check(run.settings).settings == run.settings


def test_without_a_cluster_nothing_is_asked() -> None:
    assert checked("experiment=smoke").cluster is None
    assert checked("experiment=smoke").settings["cluster"] == {"kind": "none"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cluster.nodes=3"], r"cluster.nodes=3: of 2 ranks each these are 6 ranks, but the mesh has 4; .*nodes=2"),
        (["cluster.cpu_ranks_per_node=3", "parallelism.expert_parallel_degree=1"], "4 ranks do not fill whole nodes"),
        (["cluster.nodes=4", "cluster.cpu_ranks_per_node=1"], "expert_parallel_degree=2: a group .* nodes of 1 ranks"),
        (["parallelism.data_parallel_shard_degree=-1"], "data_parallel_shard_degree=-1: takes the ranks"),
        (["cluster.partition='main; rm'"], "cluster.partition must be one word .*got 'main; rm'"),
        (["cluster.time=tomorrow"], r"cluster.time must be \[days-\]hours:minutes:seconds, got 'tomorrow'"),
        (["cluster.time=90"], "cluster.time must be .*got 90; YAML makes a number of 2:00:00"),
        (["cluster.env={A-B: 1}"], "cluster.env must hold names of variables, got 'A-B'"),
        (["cluster.sbatch={output: x}"], "cluster.sbatch must not set output"),
        (["cluster.sbatch={--mem: 0}"], "long names of options without dashes"),
        (["cluster.sbatch={exclusive: false}"], "sbatch.exclusive must be true, a value, or null"),
        (["cluster.venv=.venv"], "cluster.venv must be an absolute path"),
        (["cluster.scratch=tmp"], "cluster.scratch must be an absolute folder"),
        (["cluster.container={engine: pyxis}"], "cluster.container: engine=pyxis, image='': an image needs an engine"),
        (["cluster.gpus_per_node=2"], "cpu_ranks_per_node must be left out with gpus_per_node=2"),
        (["cluster.signal_before_s=0"], "cluster.signal_before_s must be at least 10, got 0"),
    ],
)
def test_what_no_cluster_could_run_is_refused_with_a_remedy(overrides: list[str], said: str) -> None:
    problems = problems_of(*overrides)
    assert any(re.search(said, problem) for problem in problems), problems


def test_a_login_node_needs_no_gpu_for_a_run_that_will_have_some(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["experiment=trinity_nano", "cluster=h100_pyxis", "model.attention=flex"]
    assert checked(*wanted).model.attention == "flex"
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # the job itself, on a node without
    with pytest.raises(ConfigError, match=r"model.attention=flex: needs a CUDA device"):
        checked(*wanted)
