"""launch/checks/machine.py: limits, ports, locale, umask."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.checks import base, machine
from launch.checks.machine import _job_ports
from tests.launch.checks.world import GPUS, Fault, World, assert_found


def limited(number: int, soft: int, *, gpus: bool = False) -> Fault:
    """The limit of the shell is `soft`."""

    def plant(world: World) -> None:
        real = resource.getrlimit
        world.patch.setattr(resource, "getrlimit", lambda one: (soft, soft) if one == number else real(one))
        if gpus:
            world.on_cluster(*GPUS)

    return Fault(plant, "warning", f"is {soft}:")


def small_shm(world: World) -> None:
    world.set("parallelism=hsdp_2x2_ep2")
    for module in (base, machine):
        world.patch.setattr(module, "count_gpus", lambda: 4)
    usage = shutil.disk_usage
    small = usage("/")._replace(total=64 * 2**20)
    world.patch.setattr(shutil, "disk_usage", lambda path: small if path == "/dev/shm" else usage(path))


def taken_port(world: World) -> None:
    holder = world.at_end.enter_context(socket.socket())
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    world.patch.setenv("MASTER_PORT", str(holder.getsockname()[1]))


def port_for_all(world: World) -> None:
    world.on_cluster()
    world.patch.setenv("MASTER_PORT", "29501")


def with_umask(mask: int, level: str, says: str) -> Fault:
    return Fault(lambda world: os.umask(mask), level, says)


def without_loopback(world: World) -> None:
    world.patch.setattr(machine, "port_is_free", lambda port: False)


def without_temporary_files(world: World) -> None:
    world.patch.setattr(tempfile, "tempdir", "/nowhere")


FAULTS = {
    "few open files": limited(resource.RLIMIT_NOFILE, 1000),
    "few processes": limited(resource.RLIMIT_NPROC, 100),
    "limit of CPU time": limited(resource.RLIMIT_CPU, 3600),
    "limit of the size of files": limited(resource.RLIMIT_FSIZE, 5000),
    "limit of address space": limited(resource.RLIMIT_AS, 10**9),
    "memory that cannot be pinned": limited(resource.RLIMIT_MEMLOCK, 65_536, gpus=True),
    "little shared memory": Fault(small_shm, "warning", "/dev/shm has 67.1 MB"),
    "port that is taken": Fault(taken_port, "warning", r"MASTER_PORT=\d+ is taken"),
    "port for all jobs": Fault(port_for_all, "warning", "MASTER_PORT=29501 in this shell"),
    "port that is none": Fault(
        lambda world: world.patch.setenv("MASTER_PORT", "x"), "fail", "MASTER_PORT=x is no number"
    ),
    "no loopback": Fault(without_loopback, "fail", r"no port of 127\.0\.0\.1 can be opened"),
    "variables of a rank": Fault(
        lambda world: world.patch.setenv("LOCAL_WORLD_SIZE", "4"), "warning", "LOCAL_WORLD_SIZE=4 in this shell"
    ),
    "umask that shuts us out": with_umask(0o777, "fail", "umask 0777: a run could not enter"),
    "umask that lets all in": with_umask(0o000, "warning", "everybody could change the checkpoints"),
    "locale that is not UTF-8": Fault(
        lambda world: world.patch.setattr(locale, "getencoding", lambda: "ISO-8859-1"),
        "warning",
        "encoding is iso88591",
    ),
    "no temporary files": Fault(without_temporary_files, "fail", "no temporary file can be written"),
}


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])


@pytest.mark.parametrize("config", ["PropagateResourceLimits = NONE", "PropagateResourceLimitsExcept = MEMLOCK,NOFILE"])
def test_limits_that_the_nodes_set_themselves_do_not_count(world: World, config: str) -> None:
    limited(resource.RLIMIT_MEMLOCK, 65_536, gpus=True).plant(world)
    world.command("scontrol", f"echo '{config}'")
    assert not [finding for finding in world.findings() if "MEMLOCK" in finding.what]


def test_the_ports_of_jobs_and_of_the_system_must_not_meet(tmp_path: Path) -> None:
    setting = tmp_path / "ip_local_port_range"
    setting.write_text("32768\t60999\n")
    assert _job_ports(setting).level == "ok"
    setting.write_text("1024\t65535\n")
    assert _job_ports(setting).level == "warning"
