"""launch/torchrun.py: torchrun's agent with a program of a few lines in the place of train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from socket import create_server, socket
from threading import Thread, Timer

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from launch import torchrun
from launch.torchrun import Nodes, launch, nodes_of_slurm, parse, ranks_of_node, wait_for_head
from train.config.check import check

# torch leaves the files of redirected ranks to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"),
]

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
folder, what = Path(sys.argv[1]), sys.argv[2]
rank = os.environ["RANK"]
heard = []
signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the agent's, when the other has ended: a rank saves first
before = len(list(folder.glob(f"started-{rank}-*")))
(folder / f"started-{rank}-{before}").touch()
print("this is rank", rank)
if what == "fail once" and rank == "1" and not before:
    while not list(folder.glob("started-0-*")):  # else it ends the other before that has counted
        time.sleep(0.05)
    sys.exit(7)
if what == "refuse":
    sys.exit(2)
if what == "die" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if what != "wait":
    sys.exit(0)
while not heard:
    time.sleep(0.05)
time.sleep(0.5)
(folder / f"heard-{rank}").write_text(str(len(heard)))
sys.exit(10)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Launches PROGRAM on two ranks and returns the exit code."""
    (tmp_path / "code/train").mkdir(parents=True)
    (tmp_path / "code/train/__main__.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    return lambda what, restarts=0: launch(Nodes(), 2, tmp_path / "run", [str(tmp_path), what], max_restarts=restarts)


def starts(folder: Path, rank: int) -> int:
    return len(list(folder.glob(f"started-{rank}-*")))


def test_a_signal_reaches_each_rank_once_and_their_exit_code_is_kept(
    program: Callable[..., int], tmp_path: Path
) -> None:
    def send() -> None:
        while starts(tmp_path, 0) + starts(tmp_path, 1) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    Thread(target=send, daemon=True).start()
    before = signal.getsignal(signal.SIGUSR1)
    assert program("wait", restarts=3) == 10
    assert [(tmp_path / f"heard-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert starts(tmp_path, 0) == 1  # it was asked to stop: not a crash
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_killed_rank_is_the_exit_code_and_every_rank_has_a_log(program: Callable[..., int], tmp_path: Path) -> None:
    assert program("die") == 128 + signal.SIGKILL
    logs = sorted((tmp_path / "run/logs").glob("*/attempt_0/*/stdout.log"))
    assert [log.parent.name for log in logs] == ["0", "1"]


def test_a_crash_is_started_again_and_a_refusal_is_not(program: Callable[..., int], tmp_path: Path) -> None:
    assert program("fail once", restarts=2) == 0
    assert (starts(tmp_path, 0), starts(tmp_path, 1)) == (2, 2)
    assert program("refuse", restarts=2) == 2
    assert starts(tmp_path, 1) <= 3


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 10), (signal.SIGINT, 130)])
def test_a_signal_while_the_nodes_meet_ends_it_at_once(tmp_path: Path, number: signal.Signals, exit_code: int) -> None:
    with closing(socket()) as head:
        head.bind(("127.0.0.1", 0))  # nobody answers there
        nodes = Nodes(count=2, number=1, head=f"127.0.0.1:{head.getsockname()[1]}")
        code = "from launch.torchrun import Nodes, Path, launch\n"
        code += f"launch({nodes}, 1, Path({str(tmp_path)!r}), [], max_restarts=0)"
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as node:
            assert node.stderr is not None
            assert "torchrun: node 1: waiting for 2 nodes" in node.stderr.readline()
            time.sleep(1)
            node.send_signal(number)
            assert "stopped before it had any rank" in node.stderr.read()
        assert node.returncode == exit_code


# What is asked for


def test_one_node_needs_no_flag_and_several_need_a_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert (parse(["experiment=smoke"]).nodes, parse(["experiment=smoke"]).node_rank) == (1, 0)
    for wrong, said in [
        (["--nodes", "2"], "--nodes 2: needs --head HOST:PORT"),
        (["--nodes", "2", "--node-rank", "2", "--head", "a:1"], "node ranks are 0 to 1"),
        (["--head", "gpu1"], "--head gpu1: expected HOST:PORT"),
        (["--nodes", "2", "--head", "gpu1:0"], "--head gpu1:0: expected HOST:PORT, with a port from 1 to 65535"),
        (["--max-restarts", "-1"], "--max-restarts -1: must not be negative"),
        (["--ranks-per-node", "0"], "--ranks-per-node 0: must be at least 1"),
    ]:
        with pytest.raises(SystemExit):
            parse(wrong)
        assert said in capsys.readouterr().err


def test_the_mesh_says_how_many_ranks_a_node_has() -> None:
    run = check(compose(["experiment=smoke"]))
    assert [ranks_of_node(run, nodes) for nodes in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(ConfigError, match="--nodes 3: does not divide the 4 ranks"):
        ranks_of_node(run, 3)


def test_nodes_come_from_slurm_and_nothing_is_guessed() -> None:
    script = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "3"}
    with pytest.raises(ConfigError, match="MASTER_ADDR, MASTER_PORT: not set"):
        nodes_of_slurm(script)
    nodes = nodes_of_slurm(script | {"MASTER_ADDR": "gpu1", "MASTER_PORT": "29400"})
    assert nodes == Nodes(count=2, number=1, head="gpu1:29400", run_id="7.3")


def test_a_head_that_does_not_listen_is_waited_for_and_then_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with create_server(("127.0.0.1", 0)) as server:
        head = f"127.0.0.1:{server.getsockname()[1]}"
        assert wait_for_head(head) is None
    monkeypatch.setattr(torchrun, "JOIN_S", 1.0)
    assert launch(Nodes(count=2, number=1, head=head), 1, tmp_path, [], max_restarts=0) == 1
    said = capfd.readouterr().err
    assert f"error: --head {head}: the nodes did not meet there, or the first one has ended" in said
    assert "Connection refused" in said


def test_a_head_that_listens_late_is_met() -> None:
    with create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    servers: list[socket] = []
    late = Timer(0.7, lambda: servers.append(create_server(address)))
    late.start()
    assert wait_for_head("{}:{}".format(*address)) is None
    late.join()
    servers[0].close()
