"""Mesh, nodes and SLURM. What the `cluster` section contradicts by itself, train/config/rules/cluster.py refuses."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import TimeoutExpired

from data_pipelines.base.errors import ConfigError
from launch.checks.base import (
    FLOAT32_BYTES,
    Finding,
    Subject,
    ask,
    count_gpus,
    fail,
    failures,
    last_line,
    most_ranks_here,
    ok,
    size,
    warning,
)
from launch.slurm import queue
from launch.slurm.options import job_options
from train.engine.mesh import describe_mesh


def mesh(subject: Subject) -> Iterator[Finding]:
    """Ranks against the machine that they are started on."""
    run, cluster = subject.run, subject.cluster
    if cluster is not None:
        where = f"{subject.num_nodes:,} nodes of {subject.ranks_per_node} ranks"
        yield ok(f"{describe_mesh(run.parallelism)}, on {where}")
    elif (gpus := count_gpus()) and run.world_size > gpus:
        yield _elsewhere(f"this machine has {gpus} GPUs for {run.world_size:,} ranks, each of which takes one")
    elif run.world_size > most_ranks_here():
        yield _elsewhere(f"this machine has {len(os.sched_getaffinity(0))} cores for {run.world_size:,} ranks")
    else:
        yield ok(f"{describe_mesh(run.parallelism)}, on this machine")


def _elsewhere(what: str) -> Finding:
    return warning(what, "name the machine, cluster=..., or another mesh, parallelism=single; or check on that machine")


def memory(subject: Subject) -> Iterator[Finding]:
    """Weights, gradients and states, which every mesh has to hold; activations come on top."""
    replicas = subject.run.parallelism.data_parallel_replicate_degree
    shards = subject.run.world_size // replicas
    parameters, states = subject.values
    of_rank = FLOAT32_BYTES * (2 * parameters + states) / shards
    needed = of_rank * subject.run.world_size
    if subject.is_here and not subject.uses_gpus and needed > (there := _memory_bytes()):
        yield fail(
            f"weights, gradients and states are {size(needed)} for {subject.run.world_size} ranks, this machine has "
            f"{size(there)} of memory",
            "fewer replicas (parallelism.data_parallel_replicate_degree), a smaller model, or a larger machine",
        )
    elif subject.is_here and (smallest := _smallest_gpu_bytes()) and of_rank > smallest:
        yield fail(
            f"weights, gradients and states are {size(of_rank)} a rank, a GPU here has {size(smallest)}",
            "more shards (parallelism.data_parallel_shard_degree), or larger GPUs",
        )
    else:
        yield ok(f"weights, gradients and states take {size(of_rank)} a rank; activations come on top")


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _smallest_gpu_bytes() -> int:
    """0 where there is none, or where nvidia-smi does not say."""
    if not count_gpus() or not shutil.which("nvidia-smi"):
        return 0
    answer = ask(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"])
    return min((int(line) * 2**20 for line in answer.stdout.split() if line.isdigit()), default=0)


def slurm(subject: Subject) -> Iterator[Finding]:
    """Would the controller take the job? Asked by `sbatch --test-only`, which queues nothing."""
    run, cluster = subject.run, subject.cluster
    if cluster is None:
        return
    try:
        queue.require_slurm()
        queue.check_partition(cluster.partition, nodes=subject.num_nodes, time=str(cluster.time))
    except ConfigError as error:
        yield from failures(error, "see `sinfo`")
        return
    options = job_options(run, cluster, log=Path(os.devnull))
    asked = [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]
    try:
        answer = ask(["sbatch", "--test-only", *asked, "--wrap=true"])
    except TimeoutExpired:
        yield fail("sbatch --test-only did not answer: the controller is away", "try again; `scontrol ping` says more")
        return
    if answer.returncode:
        said = last_line(answer.stderr).removeprefix("sbatch: error: ").removeprefix("allocation failure: ")
        yield fail(
            f"SLURM refuses the job: {said} (sbatch --test-only {shlex.join(asked)})",
            "change cluster.account, qos, constraint, gpus_per_node, cpus_per_task or sbatch; `sinfo` and `sacctmgr "
            "show assoc` say what there is",
        )
    else:
        yield ok(f"SLURM would take the job: {last_line(answer.stderr).removeprefix('sbatch: ')}")


def files(subject: Subject) -> Iterator[Finding]:
    """The environment or image that ranks run in, and folders that are mounted into it."""
    cluster = subject.cluster
    if cluster is None:
        return
    image = cluster.container.image
    if image.endswith((".sif", ".sqsh")) and not Path(image).is_file():
        yield fail(f"cluster.container.image={image} does not exist", "correct the path, or build the image")
    for mount in cluster.container.mounts:
        if not Path(folder := mount.partition(":")[0]).exists():
            yield fail(f"cluster.container.mounts: {folder} does not exist", "correct the path, or leave the mount out")
    if cluster.modules and (refusal := _module_problem(cluster.modules)):
        yield fail(f"module load {' '.join(cluster.modules)}: {refusal}", "correct cluster.modules; see `module avail`")


def _module_problem(modules: list[str]) -> str:
    """As the batch script does, in a login shell; empty where they load."""
    answer = ask(["bash", "-lc", f"module purge && module load {shlex.join(modules)}"])
    return last_line(answer.stderr) if answer.returncode else ""


def time_limit(subject: Subject) -> Iterator[Finding]:
    """The signal that comes before the limit must leave time to train."""
    if subject.cluster is None:
        return
    limit, before = queue.seconds(str(subject.cluster.time)), subject.cluster.signal_before_s
    if before >= limit:
        yield fail(
            f"cluster.signal_before_s={before}: a job of cluster.time={subject.cluster.time} would be told to stop as "
            "it starts",
            "a longer cluster.time, or a smaller signal_before_s",
        )


CHECKS = (mesh, memory, slurm, files, time_limit)
