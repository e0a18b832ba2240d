"""Limits and conditions that processes inherit: files, processes, memory of the system, ports, locale, umask.

Under SLURM ranks inherit the limits of the shell that submits, unless the site says otherwise, so they count there too.
"""

from __future__ import annotations

import locale
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from subprocess import TimeoutExpired
from typing import NamedTuple

from launch.checks.base import Finding, Subject, ask, count_gpus, fail, ok, size, warning

SHM_BYTES = 2**30
"""NCCL's buffers between the GPUs of a node; containers come with 64 MB."""
JOB_PORTS = range(20_000, 30_000)
"""Where the ranks of a job meet, by its number (launch/slurm/job.sh)."""
TORCHRUN_PORT = 29_500
INHERITED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


class Limit(NamedTuple):
    """A limit of the shell, `ulimit`."""

    name: str
    """As SLURM calls it."""
    number: int
    option: str
    needed: float
    """At least; infinity: no limit at all."""
    why: str


def limits(subject: Subject) -> Iterator[Finding]:
    """Of this shell, where it starts the run or submits it."""
    if not subject.starts_here:
        return
    kept = _not_propagated() if subject.cluster is not None else frozenset()
    checked = [limit for limit in _limits(subject) if limit.name not in kept]
    too_low = [(limit, soft) for limit in checked if (soft := _soft(limit)) < limit.needed]
    for limit, soft in too_low:
        needed = "unlimited" if limit.needed == float("inf") else f"{limit.needed:.0f}"
        yield warning(
            f"ulimit {limit.option} ({limit.name}) is {soft:.0f}: {limit.why}",
            f"ulimit {limit.option} {needed}, in the shell that starts the run (and in /etc/security/limits.conf)",
        )
    if not too_low:
        yield ok("limits of this shell: " + ", ".join(f"{limit.name} {_shown(limit)}" for limit in checked))


def _limits(subject: Subject) -> list[Limit]:
    ranks, local = subject.run.world_size, min(subject.ranks_per_node, subject.run.world_size)
    unlimited = float("inf")
    per_rank_bytes = 1024 * -(-subject.checkpoint_bytes // (1024 * ranks))
    found = [
        # gloo connects each rank with all others of a group; besides, shards and libraries
        Limit("NOFILE", resource.RLIMIT_NOFILE, "-n", 1024 + 2 * ranks, "ranks open a connection to each other"),
        Limit("NPROC", resource.RLIMIT_NPROC, "-u", 256 * local, f"threads of {local} ranks count"),
        Limit("CPU", resource.RLIMIT_CPU, "-t", unlimited, "the system ends a rank after so many seconds of a core"),
        Limit("FSIZE", resource.RLIMIT_FSIZE, "-f", per_rank_bytes, "a rank's file of a checkpoint is larger"),
        Limit("AS", resource.RLIMIT_AS, "-v", unlimited, "CUDA reserves more address space than any memory"),
    ]
    if subject.num_nodes > 1 and subject.uses_gpus:
        why = "InfiniBand pins its buffers, and NCCL fails without"
        found.append(Limit("MEMLOCK", resource.RLIMIT_MEMLOCK, "-l", unlimited, why))
    return found


def _soft(limit: Limit) -> float:
    soft, _ = resource.getrlimit(limit.number)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def _shown(limit: Limit) -> str:
    return "unlimited" if (soft := _soft(limit)) == float("inf") else f"{soft:,.0f}"


def _not_propagated() -> frozenset[str]:
    """Limits that the cluster's nodes set themselves. Source: slurm.conf(5), PropagateResourceLimits."""
    if not shutil.which("scontrol"):
        return frozenset()
    try:
        answer = ask(["scontrol", "show", "config"]).stdout
    except TimeoutExpired:
        return frozenset()
    lines = (line.partition("=") for line in answer.splitlines())
    config = {key.strip(): value.strip() for key, _, value in lines}
    if config.get("PropagateResourceLimits") == "NONE" or config.get("PropagateResourceLimitsExcept") == "ALL":
        return frozenset({"NOFILE", "NPROC", "CPU", "FSIZE", "AS", "MEMLOCK"})
    return frozenset(config.get("PropagateResourceLimitsExcept", "").split(","))


def shared_memory(subject: Subject) -> Iterator[Finding]:
    """/dev/shm of this machine; that of nodes cannot be seen."""
    if not subject.is_here or not count_gpus() or subject.run.world_size == 1:
        return
    if (total := shutil.disk_usage("/dev/shm").total) < SHM_BYTES:
        yield warning(
            f"/dev/shm has {size(total)}: NCCL may fail between the GPUs of a node",
            "docker run --shm-size=8g, or --ipc=host",
        )
    else:
        yield ok(f"/dev/shm has {size(total)}")


def ports(subject: Subject) -> Iterator[Finding]:
    """Where ranks meet."""
    if subject.cluster is not None and os.environ.get("MASTER_PORT"):
        yield warning(
            f"MASTER_PORT={os.environ['MASTER_PORT']} in this shell: every job would meet there, one in another's way",
            "unset it: each start of a job then has a port of its own",
        )
        return
    if subject.cluster is not None:
        yield _job_ports(Path("/proc/sys/net/ipv4/ip_local_port_range"))
        return
    if os.environ.get("MASTER_PORT") and not os.environ["MASTER_PORT"].isdecimal():
        yield fail(f"MASTER_PORT={os.environ['MASTER_PORT']} is no number", "unset it")
        return
    port = int(os.environ.get("MASTER_PORT") or TORCHRUN_PORT)
    if port_is_free(0) and not port_is_free(port):
        says = f"MASTER_PORT={port}" if os.environ.get("MASTER_PORT") else f"port {port}, torchrun's default,"
        yield warning(
            f"{says} is taken on this machine: a run that meets there would not start",
            "unset MASTER_PORT or choose another; ./launch/local.sh and torchrun --standalone take a free one",
        )
    elif not port_is_free(0):
        yield fail(
            "no port of 127.0.0.1 can be opened: ranks could not meet", "mend the loopback interface: ip link set lo up"
        )
    else:
        yield ok(f"port {port} is free, and so are others")


def port_is_free(port: int) -> bool:
    """0: whether any is."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _job_ports(setting: Path) -> Finding:
    """The system gives outgoing connections ports of a range of its own; a job's must not be among them."""
    low, high = map(int, setting.read_text().split())
    where = f"{JOB_PORTS.start} to {JOB_PORTS.stop - 1}"
    if low < JOB_PORTS.stop and high >= JOB_PORTS.start:
        return warning(
            f"ranks meet at a port of {where}, which the system gives to others too (ip_local_port_range {low} {high})",
            "sysctl net.ipv4.ip_local_port_range='32768 60999' on the nodes",
        )
    return ok(f"ranks meet at a port of {where} that follows from the job's number")


def inherited(subject: Subject) -> Iterator[Finding]:
    """What this shell hands on."""
    if left := [f"{name}={os.environ[name]}" for name in INHERITED if name in os.environ]:
        yield warning(
            f"{', '.join(left)} in this shell: processes would take themselves for ranks", "unset them, or a new shell"
        )
    umask = os.umask(0)
    os.umask(umask)
    if umask & 0o700:
        yield fail(f"umask {umask:04o}: a run could not enter its own folders", "umask 022")
    if umask & 0o002 == 0:
        yield warning(f"umask {umask:04o}: everybody could change the checkpoints", "umask 022")
    encoding = locale.getencoding().lower().replace("-", "")
    if encoding != "utf8":
        yield warning(f"the locale's encoding is {encoding}: names and texts are UTF-8", "export LC_ALL=C.UTF-8")
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"0")
    except OSError as error:
        yield fail(f"no temporary file can be written ({error})", "set TMPDIR to a folder that can")
    yield ok(f"umask {umask:04o}, {encoding}, temporary files in {tempfile.gettempdir()}")


CHECKS = (limits, shared_memory, ports, inherited)
