"""train/metrics/weights_and_biases.py and wandb_files.py, with W&B's own client: its files, its `sync`, its uploads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import wandb

from data_pipelines.base.errors import REQUEUE_EXIT, RunError
from launch import catch_up, requeue
from tests.train.metrics.one_start import SETTINGS, row_of, take_steps, timeline
from tests.train.metrics.wandb_history import history, records
from tests.train.metrics.wandb_server import Server, wandb_server
from tests.train.small import small_settings, write_run
from train.metrics import wandb_files
from train.metrics.config import MetricsConfig
from train.metrics.events import History
from train.metrics.follower import State
from train.metrics.row import Row
from train.metrics.wandb_files import last_logged, mend, read_records, record_files, run_id
from train.metrics.weights_and_biases import RunFacts, WandB, _flatten, start_wandb
from train.pictures.loads import draw_loads
from train.process.starts import append_event

TIMEOUT_S = 120


@pytest.fixture(autouse=True, scope="module")
def hurry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb_files, "REST_S", 1.0)
        yield


def lost_start(run_dir: Path, first: int, last: int, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.train.metrics.one_start", str(run_dir), str(first), str(last), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A W&B server, and this process its client."""
    wandb.teardown()  # which reads the environment once
    with wandb_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        wandb.teardown()


def sync(run_dir: Path, server: Server) -> str:
    """`wandb sync` of all that is there; what it says."""
    command = [sys.executable, "-m", "wandb", "sync", str(run_dir / "wandb")]
    environment = os.environ | server.environment
    done = subprocess.run(  # in a folder of its own: it leaves a log
        command, cwd=run_dir, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=True
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three starts: steps 1 to 7; 8 to 12, killed; from the checkpoint after 10 on to 15."""
    run_dir = tmp_path_factory.mktemp("run")
    take_steps(run_dir, 1, 7)
    assert lost_start(run_dir, 8, 12, "kill").returncode == -signal.SIGKILL
    take_steps(run_dir, 11, 15)
    return run_dir


def test_three_starts_are_one_run_with_every_step_once_over_tokens(killed_run: Path) -> None:
    all_records, rows = records(killed_run), history(killed_run)
    identity = (killed_run / "wandb_id").read_text()
    assert {record.run.run_id for record in all_records if record.HasField("run")} == {identity}
    assert [row["_step"] for row in rows] == list(range(1, 16))
    assert [row["step"] for row in rows] == list(range(1, 16))
    assert [row["tokens"] for row in rows] == [20 * step for step in range(1, 16)]
    axes = {(r.metric.glob_name, r.metric.step_metric) for r in all_records if r.HasField("metric")}
    assert ("*", "tokens") in axes
    assert [row["event/phase"] for row in rows] == [1] * 10 + [2] * 5
    assert [row["event/start"] for row in rows if "event/start" in row][-1] == 3
    assert len(list(killed_run.glob("wandb/offline-run-*"))) == 3


def test_offline_starts_are_synced_without_gaps_and_duplicates_whenever_that_is_done(
    killed_run: Path, server: Server
) -> None:
    assert "ERROR" not in sync(killed_run, server)
    (run,) = server.runs.values()
    assert [row["_step"] for row in run.history] == list(range(1, 16))
    take_steps(killed_run, 14, 18)
    assert "ERROR" not in sync(killed_run, server)
    assert [row["_step"] for row in run.history] == list(range(1, 19))
    config = {key: part["value"] for key, part in json.loads(run.config).items() if key != "_wandb"}
    assert {key: config[key] for key in SETTINGS} == SETTINGS
    assert config["code"] == {"commit": "abc", "dirty": False}
    assert config["phases"]["a"] == {"last_step": 10, "to_tokens": 200}
    assert {start["host"] for start in config["starts"]} == {"n1"}


def test_an_online_run_goes_on_where_the_server_has_it(tmp_path: Path, server: Server) -> None:
    take_steps(tmp_path, 1, 5, mode="online")
    (run,) = server.runs.values()
    run.lines = {place: line for place, line in run.lines.items() if place < 3}  # what came after never arrived
    run.summary = run.lines[2]
    take_steps(tmp_path, 5, 8, mode="online")
    assert [row["_step"] for row in run.history] == list(range(1, 9))
    assert list(server.runs) == [(tmp_path / "wandb_id").read_text()]
    take_steps(tmp_path, 5, 6, mode="online", rewinds=[{"step": 4, "last_step": 8}])
    assert [(row["_step"], row["step"]) for row in run.history][7:] == [(8, 8), (9, 5), (10, 6)]


def test_a_job_that_is_not_started_again_sends_what_its_killed_process_did_not(tmp_path: Path, server: Server) -> None:
    run_dir = tmp_path / "run"
    write_run([*small_settings(tmp_path), "metrics.wandb=online"], run_dir)
    (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(row_of(step))}\n" for step in range(1, 7)))
    identity = run_id(run_dir, [])
    append_event(run_dir, "start", step=0)
    append_event(run_dir, "decision", step=0, requeue=False, exit_code=137, reason="no progress in 3 starts in a row")
    for send in (requeue.tell_wandb, lambda run_dir: catch_up.main([str(run_dir)])):  # once is enough
        send(run_dir)
        assert [row["step"] for row in server.runs[identity].history] == list(range(1, 7))
        assert server.runs[identity].alerts == ["not requeued"]


def test_a_client_that_stands_still_holds_up_neither_a_step_nor_the_end(tmp_path: Path) -> None:
    done = lost_start(tmp_path, 1, 2000, "hang")
    assert done.returncode == 0, done.stderr
    slowest_s, all_s = map(float, done.stdout.split())
    assert slowest_s < 1
    assert all_s < 30
    assert "WARNING: W&B: it does not end within 2 s" in done.stderr
    take_steps(tmp_path, 2001, 2001)
    assert [row["_step"] for row in history(tmp_path)] == list(range(1, 2002))


def test_a_file_that_ends_inside_of_a_record_is_cut_and_one_without_any_is_set_aside(
    killed_run: Path, tmp_path: Path
) -> None:
    whole = record_files(killed_run, (killed_run / "wandb_id").read_text())[0].read_bytes()
    path = tmp_path / "run-x.wandb"
    path.write_bytes(whole)
    ends = [record.end for record in read_records(path)]
    assert ends[-1] == len(whole)
    for cut in (ends[-2] + 1, ends[-1] - 1, ends[-2] + 5):
        path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) * 3)  # another byte than the one that was there
        mend(path)
        assert path.stat().st_size == ends[-2]
    path.write_bytes(whole[:7])
    mend(path)
    assert not path.exists()
    assert path.with_name("run-x.wandb.empty").exists()


def test_the_end_of_a_large_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_steps(tmp_path, 1, 1500)
    (path,) = record_files(tmp_path, (tmp_path / "wandb_id").read_text())
    assert path.stat().st_size > 10 * 2**15
    assert last_logged(path) == 1500
    monkeypatch.setattr("train.metrics.wandb_files.TAIL_BYTES", 2**15)
    assert last_logged(path) == 1500
    mend(path)
    assert len(history(tmp_path)) == 1500


def test_the_id_belongs_to_the_run_directory_and_survives_in_its_checkpoints(tmp_path: Path) -> None:
    first, second, checkpoint = tmp_path / "a", tmp_path / "b", tmp_path / "a/checkpoint/step-5"
    for folder in (first, second, checkpoint):
        folder.mkdir(parents=True)
    identity = run_id(first, [checkpoint])
    assert run_id(first, [checkpoint]) == identity != run_id(second, [])
    (checkpoint / "wandb_id").write_text(identity)
    (first / "wandb_id").unlink()
    assert run_id(first, [tmp_path / "gone", checkpoint]) == identity
    assert (first / "wandb_id").read_text() == identity
    (first / "wandb_id").write_text("")
    assert run_id(first, [checkpoint]) == identity


class RecordedRun:
    """Stands for W&B's run: keeps what it is given."""

    resumed = False

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.alerts: list[dict[str, str]] = []
        self.ended: list[Any] = []

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "tokens")

    def log(self, figures: dict[str, Any], *, step: int, commit: bool) -> None:
        self.logged.append({**figures, "at": step})

    def alert(self, **alert: str) -> None:
        self.alerts.append(alert)

    def mark_preempting(self) -> None:
        self.ended.append("preempting")

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordedRun:
    run = RecordedRun()
    monkeypatch.setattr("wandb.init", lambda **settings: run)
    return run


def client(run_dir: Path) -> WandB:
    config = MetricsConfig(wandb="offline")
    facts = RunFacts(run_dir=run_dir, name="run", settings={}, timeline=timeline(), history=History())
    return WandB(config, facts, State())


def log(run_dir: Path, *, is_new: bool = True, **row: Any) -> None:
    client(run_dir).log(cast(Row, {"step": 7, "phase": "b", **row}), {}, step=7, is_new=is_new)


def test_wandb_gets_groups_of_layers_and_not_every_layer(recorded: RecordedRun, tmp_path: Path) -> None:
    by_layer = {"max_violation_by_layer": {"2": 0.5}, "by_layer": {"bias_spread": {"2": 0.25}}}
    log(tmp_path, balance={"early": {"max_violation": 0.5}}, **by_layer)
    expected = {"step": 7, "phase": "b", "event/phase": 2, "balance/early/max_violation": 0.5, "at": 7}
    assert recorded.logged == [expected]


def test_a_path_is_a_picture_as_long_as_it_shows_the_step(recorded: RecordedRun, tmp_path: Path) -> None:
    draw_loads(torch.ones(2, 4), ["1", "2"], title="step 7", path=tmp_path / "loads.png")
    log(tmp_path, loads=str(tmp_path / "loads.png"))
    log(tmp_path, loads=str(tmp_path / "loads.png"), is_new=False)
    assert type(recorded.logged[0]["loads"]).__name__ == "Image"
    assert "loads" not in recorded.logged[1]


def test_alarms_are_alerts_once(recorded: RecordedRun, tmp_path: Path) -> None:
    log(tmp_path, alarm="layer 3")
    log(tmp_path, spike="spike: loss 9")
    log(tmp_path, spike="spike: loss 9", is_new=False)
    assert [(alert["title"], alert["text"]) for alert in recorded.alerts] == [
        ("experts collapsed", "step 7: layer 3"),
        ("spike", "step 7: spike: loss 9"),
    ]


def test_a_run_that_was_asked_to_stop_is_preempted(recorded: RecordedRun, tmp_path: Path) -> None:
    client(tmp_path).finish(REQUEUE_EXIT)
    client(tmp_path).finish(0)
    assert recorded.ended == ["preempting", REQUEUE_EXIT, 0]


def test_nested_figures_are_grouped_by_slashes() -> None:
    assert _flatten({"step": 1, "seconds": {"data": 0.5, "deep": {"x": 2}}}) == {
        "step": 1,
        "seconds/data": 0.5,
        "seconds/deep/x": 2,
    }


@pytest.mark.parametrize("home", [None, "nowhere", "there"])
def test_wandb_writes_to_the_run_directory_where_there_is_no_home(
    home: str | None, recorded: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    environment = {} if home is None else {"HOME": str(tmp_path / home)}
    monkeypatch.setattr("os.environ", environment)
    client(tmp_path)
    folders = {value for name, value in environment.items() if name.startswith("WANDB_") and name.endswith("_DIR")}
    kept = {str(tmp_path / "wandb/home" / kind) for kind in ("cache", "config", "data")}
    assert folders == (set() if home == "there" else kept)


def break_wandb(*_: Any, **__: Any) -> None:
    raise OSError("no network")


def start(run_dir: Path, config: MetricsConfig, *, resume_step: int = 0) -> list[Any]:
    (run_dir / "metrics.jsonl").touch()
    facts = RunFacts(run_dir=run_dir, name="run", settings={}, timeline=timeline(), history=History())
    return cast(list[Any], start_wandb(config, facts, resume_step=resume_step))


def test_wandb_that_cannot_start_stops_a_run_that_requires_it_and_has_done_nothing_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WandB, "__init__", break_wandb)
    with pytest.raises(RunError, match=r"W&B cannot start .*no network.*metrics\.wandb=offline"):
        start(tmp_path, MetricsConfig(wandb="online"))


def test_nobody_who_chose_offline_is_told_to_choose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WandB, "__init__", break_wandb)
    with pytest.raises(RunError, match=r"offline\): no network; go on without by metrics\.wandb=disabled"):
        start(tmp_path, MetricsConfig(wandb="offline"))


@pytest.mark.parametrize(("is_required", "resume_step"), [(False, 0), (True, 1)])
def test_a_run_goes_on_without_wandb_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_required: bool,
    resume_step: int,
) -> None:
    monkeypatch.setattr(WandB, "__init__", break_wandb)
    config = MetricsConfig(wandb="online", wandb_required=is_required)
    (follower,) = start(tmp_path, config, resume_step=resume_step)
    follower.wait_for_first_attempt(5)
    follower.close()
    assert "WARNING: W&B: no network. The run goes on and writes its figures to" in capsys.readouterr().err


def test_disabled_wandb_is_no_sink(tmp_path: Path) -> None:
    assert start(tmp_path, MetricsConfig(wandb="disabled")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
