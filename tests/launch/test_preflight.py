"""launch/preflight.py: the command, its table, and no alarm where nothing is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.base.command import CONFIGS
from launch import preflight
from launch.checks import base, environment, storage
from launch.checks.base import Finding, Subject, duration, fail, failures, ok, size, warning
from tests.launch.checks import (
    test_cluster,
    test_configuration,
    test_corpus,
    test_machine,
    test_packages,
    test_resumption,
    test_storage,
    test_tokenizer,
    test_wandb,
)
from tests.launch.checks.conftest import template, world  # noqa: F401  (fixtures)
from tests.launch.checks.world import World

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def bad(findings: list[Finding], *levels: str) -> list[str]:
    return [
        f"{finding.group}: {finding.what}" for finding in findings if finding.level in (levels or ("fail", "warning"))
    ]


def test_at_least_25_faults_are_planted() -> None:
    modules: tuple[Any, ...] = (test_cluster, test_configuration, test_corpus, test_machine, test_packages)
    modules += (test_resumption, test_storage, test_tokenizer, test_wandb)
    assert sum(len(module.FAULTS) for module in modules) >= 25


def test_a_run_that_can_start_here_has_no_alarm_and_leaves_nothing_behind(world: World) -> None:  # noqa: F811
    before = world.files()
    assert bad(world.findings()) == []
    assert world.files() == before


def test_nor_has_one_on_a_cluster(world: World) -> None:  # noqa: F811
    world.on_cluster()
    assert bad(world.findings()) == []


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_shipped_experiment_fails_for_a_reason_of_its_own(world: World, experiment: str) -> None:  # noqa: F811
    """Recipes on shards, as they are, name no data: that is theirs to say and the user's to give."""
    world.settings = [f"experiment={experiment}", "metrics.wandb=offline"]
    without_data = {"corpus: data.sources is empty: no tokens to train on", "corpus: data.tokenizer is empty"}
    of_this_machine = ("cluster: weights, gradients and states are", "storage: ")  # memory and disk
    found = {text for text in bad(world.findings(), "fail") if not text.startswith(of_this_machine)}
    assert found in (set(), without_data)


@pytest.mark.parametrize(
    ("experiment", "cluster", "mesh", "replicas"),
    [
        ("trinity_large", "h100_256nodes", "hsdp_ep8", 16),
        ("trinity_mini", "h100_256nodes", "hsdp_ep8", 4),
        ("trinity_nano", "h100_256nodes", "hsdp_ep8", 4),
        ("trinity_nano_1node", "h100_1node", "fsdp_8_ep8", 1),
    ],
)
def test_no_recipe_fails_on_its_cluster_with_data(
    world: World,  # noqa: F811
    experiment: str,
    cluster: str,
    mesh: str,
    replicas: int,
) -> None:
    data = [text for text in world.settings if text.startswith("data")]
    world.settings = [f"experiment={experiment}", "metrics.wandb=offline", *data]
    with_cuda = test_packages.here(torch="2.15.0") | {"cuda": "13.0"}
    world.patch.setattr(environment, "environment", lambda names: with_cuda)
    usage = storage.shutil.disk_usage
    world.patch.setattr(storage.shutil, "disk_usage", lambda path: usage(path)._replace(free=10**15))
    world.on_cluster("cluster.scratch=null", "cluster.nodes=null", mesh=mesh, cluster=cluster)
    world.set(f"parallelism.data_parallel_replicate_degree={replicas}")
    assert bad(world.findings(), "fail") == []


def test_a_check_that_breaks_off_is_a_finding_and_the_others_go_on(world: World) -> None:  # noqa: F811
    def broken(subject: Subject) -> list[Finding]:
        raise RuntimeError("the moon is full")

    world.patch.setattr(storage, "CHECKS", (broken, *storage.CHECKS))
    findings = world.findings()
    assert bad(findings) == ["storage: broken could not be checked: RuntimeError: the moon is full"]
    assert len([finding for finding in findings if finding.group == "storage"]) > 1


def test_the_table_has_the_remedy_below_its_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    findings = [
        ok("all is well"),
        warning("it is rather late for that, and dark", "go to bed"),
        fail("no bed", "buy one"),
    ]
    assert preflight.table(findings) == (
        "ok                      all is well\n"
        "warning                 it is rather late for that, and dark\n"
        "                        -> go to bed\n"
        "fail                    no bed\n"
        "                        -> buy one"
    )
    assert preflight.verdict(findings) == "1 ok, 1 warnings, 1 failed"


def test_the_exit_code_is_2_where_something_fails(world: World, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    arguments = [*world.settings, f"run.dir={world.run_dir}"]
    assert preflight.main(arguments) == 0
    assert preflight.main([*arguments, "data.sources={}"]) == 2
    assert "-> name the shards" in capsys.readouterr().out
    assert preflight.main([*arguments, "training.seq_lenn=3"]) == 2
    assert "did you mean seq_len?" in capsys.readouterr().out


def test_problems_of_an_error_are_findings_with_their_remedies() -> None:
    first, second = failures(ValueError("a=1: too small; raise it\nb is missing"), "add it")
    assert (first.what, first.remedy) == ("a=1: too small", "raise it")
    assert (second.what, second.remedy) == ("b is missing", "add it")


def test_sizes_and_times_are_written_for_people() -> None:
    assert [size(number) for number in (0, 999, 3.194e12, 5e16)] == ["0 B", "999 B", "3.19 TB", "50 PB"]
    assert [duration(seconds) for seconds in (0.11, 42, 210, 9000)] == ["0.11 s", "42 s", "3.5 min", "2.5 h"]


def test_the_largest_recipe_is_checked_for_programs(tmp_path: Path) -> None:
    overrides = ("experiment=trinity_large", f"run.dir={tmp_path}/run", "metrics.wandb=offline")
    command = [sys.executable, "-m", "launch.preflight", "--json", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("preflight: reading the configuration\n")
    assert {finding["level"] for finding in json.loads(done.stdout)} == {"ok", "warning", "fail"}
    assert base.size(3_194_005_229_568) in done.stdout  # weights and one state for each, two for those of AdamW
