"""A real SLURM of two nodes on this machine, everything of it in one folder: munged, slurmctld, a slurmd for each node.

Needs the Debian packages slurm-wlm and munge. Both nodes are this host under the names n1 and n2, so a job of two nodes
is one of four processes; what belongs to one node only (a disk, a network) cannot be tested with it.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
NODES = ("n1", "n2")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where Debian has the daemons, and users have no PATH to
START_S = 20.0
STOP_S = 20.0
SAVE_S = 120.0
"""From a signal to the requeued job: a step, a checkpoint and the end of four processes, on a busy machine."""
NEXT_CREDENTIAL_S = 2.5
"""A start in the second in which the one before was ended is refused: its credential has been revoked."""
KILL_WAIT_S = 5
"""From SIGTERM to SIGKILL; SLURM's default is 30."""

# Ranks meet at a port that follows from the number of their job: clusters side by side must not number alike.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=2
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd-%n
SlurmctldPort={controller_port}
SlurmdParameters=config_overrides
SlurmdTimeout=30
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait={kill_wait}
MinJobAge=3600
FirstJobId={controller_port}
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs=8 RealMemory=8000
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=1-0 State=UP
PartitionName=small Nodes=n1 MaxTime=60 State=UP
# 256 nodes of 8 GPUs that nobody has, as a cloud would start them: what `sbatch --test-only` measures recipes against.
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=-1
NodeName=DEFAULT CPUs=128 RealMemory=2000000 Gres=gpu:8 State=CLOUD
NodeName=g[001-256] NodeHostname={host} NodeAddr=127.0.0.1 Port=[701-956]
PartitionName=hopper Nodes=g[001-256] State=UP
"""


def missing_programs() -> list[str]:
    """Those that this machine would need to run a cluster."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@dataclass(frozen=True)
class Job:
    """What `scontrol show job` says."""

    state: str
    reason: str
    exit_code: str
    """<exit code>:<signal>"""
    restarts: int


class Cluster:
    """Runs from start() to stop()."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: Mapping[str, str] = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        """What a process needs to talk to it."""

    def start(self) -> None:
        for name in ("state", "log", "munge"):
            (self.folder / name).mkdir()
        for open_to_all in (self.folder, self.folder / "munge"):  # munged insists: anybody may connect to its socket
            open_to_all.chmod(0o755)
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        controller_port, first_port, last_port = _free_ports()
        text = CONFIGURATION.format(
            folder=self.folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            controller_port=controller_port,
            first_port=first_port,
            last_port=last_port,
            kill_wait=KILL_WAIT_S,
        )
        (self.folder / "slurm.conf").write_text(text)
        munge = self.folder / "munge"
        files = {"key": "key", "socket": "socket", "pid": "pid", "log": "log", "seed": "seed"}
        names = {"key": "key-file", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
        self.run("munged", *(f"--{names.get(kind, kind)}={munge / name}" for kind, name in files.items()))
        self.run("slurmctld")
        for node in NODES:
            self.start_node(node)
        _wait_for(lambda: self.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D").strip() == "2", START_S)

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-N", node)

    def stop(self) -> None:
        """Ends its jobs and then itself, by its pid files."""
        with suppress(subprocess.CalledProcessError):
            self.run("scancel", "--user", getpass.getuser())
            _wait_for(lambda: not self.run("squeue", "-h").strip(), STOP_S)
        for file in [*(f"slurmd-{node}.pid" for node in NODES), "slurmctld.pid", "munge/pid"]:
            self.end(file, signal.SIGTERM)

    def end(self, pid_file: str, number: signal.Signals) -> None:
        """Sends a signal to a daemon and waits for its end."""
        path = self.folder / pid_file
        if not path.is_file():
            return
        pid = int(path.read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        _wait_for(lambda: _is_gone(pid), STOP_S)

    def run(self, *command: str) -> str:
        """What a command prints. Raises CalledProcessError, with its words as a note."""
        environment = {**os.environ, **self.environment}
        program = shutil.which(command[0], path=PATH) or command[0]
        done = subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    def job(self, number: str) -> Job:
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        return Job(fields["JobState"], fields["Reason"], fields["ExitCode"], int(fields["Restarts"]))

    def wait(self, number: str, *states: str, within_s: float) -> Job:
        """Until the job is in one of the states, by default one of those of its end. Raises TimeoutError."""
        wanted = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        _wait_for(lambda: self.job(number).state in wanted, within_s, lambda: json.dumps(self.job(number).__dict__))
        return self.job(number)

    def reason(self, number: str, within_s: float = 60) -> str:
        """Why a job waits, once the scheduler has looked at it: until then it says None. Raises TimeoutError."""
        _wait_for(lambda: self.job(number).reason != "None", within_s, lambda: json.dumps(self.job(number).__dict__))
        return self.job(number).reason

    def start_requeued(self, number: str) -> None:
        """Without the two minutes that SLURM lets a requeued job wait, and with time enough."""
        self.wait(number, "PENDING", within_s=SAVE_S)
        time.sleep(NEXT_CREDENTIAL_S)
        self.run("scontrol", "update", f"JobId={number}", "StartTime=now", "TimeLimit=60")


def _free_ports() -> tuple[int, int, int]:
    """One for the controller; two neighbours for the nodes."""
    while True:
        with closing(socket.socket()) as one, closing(socket.socket()) as two, closing(socket.socket()) as three:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            first = two.getsockname()[1]
            with suppress(OSError, OverflowError):
                three.bind(("127.0.0.1", first + 1))
                return one.getsockname()[1], first, first + 1


def _is_gone(pid: int) -> bool:
    """A process that nobody waits for stays as a zombie."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(") ")[2][0] == "Z"
    except FileNotFoundError:
        return True


def _wait_for(condition: Callable[[], bool], within_s: float, what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s: {what()}")
        time.sleep(0.1)
