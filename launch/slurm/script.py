"""A run -> the text of its batch script: options, the machine's environment, one command for all ranks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.slurm.options import Options, directive, num_nodes
from train.cluster.config import ClusterConfig
from train.config.run import Run


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the job of a run finds what it needs, on file systems that all nodes see."""

    run_dir: Path
    code: Path
    """Holds train/, data_pipelines/, launch/ and configs/ as they were at submission."""
    workdir: Path
    """Where relative paths of the configuration begin."""
    venv: Path
    """Environment that submits; cluster.venv goes before it."""

    @property
    def log(self) -> Path:
        """Of the job, as sbatch reads it: %j is its number, and any other % is doubled."""
        return Path(str(self.run_dir / "slurm").replace("%", "%%")) / "%j.log"


def batch_script(
    run: Run,
    cluster: ClusterConfig,
    *,
    options: Options,
    overrides: Sequence[str],
    command: str,
    places: Places,
    is_chained: bool = False,
) -> str:
    """The whole file. options: as job_options makes them. command: what a person typed, for the reader.

    is_chained: another job of the run waits for this one and goes on, so this one is never requeued.
    """
    parts = [
        [*_title(run, cluster, command), *(directive(*option) for option in options.items())],
        list(_settings(run, cluster, places, is_chained)),
        list(_environment(cluster)),
        list(_image(cluster)),
        ['source "$CODE/launch/slurm/job.sh" || exit 3'],
        [*_stage(cluster), *_start(cluster, overrides), *_finish(cluster)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def array_script(options: Options, folders: Sequence[Path]) -> str:
    """The file that sbatch gets for a sweep: task N becomes the script that lies in the Nth of `folders`, and its log.

    options: of any of the runs, which ask for the same.
    """
    array = options | {"array": f"0-{len(folders) - 1}", "output": "/dev/null"}
    if "job-name" in array:
        array["job-name"] = "sweep"
    lines = ["#!/bin/bash", f"# {len(folders)} runs, a task each. Made by launch.submit."]
    lines += [directive(*option) for option in array.items()]
    lines += ["folders=(", *(f"    {_quote(folder)}" for folder in folders), ")"]
    lines += [
        "folder=${folders[SLURM_ARRAY_TASK_ID]}",
        'exec bash "$folder/job.sbatch" >>"$folder/$SLURM_JOB_ID.log" 2>&1',
    ]
    return "\n".join(lines) + "\n"


def _title(run: Run, cluster: ClusterConfig, command: str) -> list[str]:
    nodes, per_node = num_nodes(run, cluster), cluster.ranks_per_node
    ranks = f"{per_node} GPUs" if cluster.gpus_per_node else f"{per_node} ranks on CPUs"
    return [
        "#!/bin/bash",
        f"# {run.run.name} on {nodes} {'nodes' if nodes > 1 else 'node'} x {ranks}. Made by:",
        f"#   {' '.join(command.splitlines())}",
        "# What its functions do stands in launch/slurm/job.sh. `sbatch` of this file goes on with the run.",
    ]


def _settings(run: Run, cluster: ClusterConfig, places: Places, is_chained: bool) -> Iterator[str]:
    yield f"cd {_quote(places.workdir)} || exit 3 # relative paths of the configuration begin here"
    yield f"export RUN_DIR={_quote(places.run_dir)}"
    yield f"export CHECKPOINTS={_quote(places.run_dir / run.checkpoint.folder)}"
    yield f"export CODE={_quote(places.code)} # as it was at submission"
    if cluster.container.engine != "none":
        yield f"PYTHON={_quote(f'{cluster.venv}/bin/python' if cluster.venv else 'python')} # of the image"
    else:
        yield f"VENV={_quote(cluster.venv or places.venv)}"
        yield "PYTHON=$VENV/bin/python"
    yield f"MAX_STARTS={cluster.max_starts_without_progress} # in a row without a new checkpoint, then no requeue"
    yield f"EXCLUDE_AFTER={cluster.exclude_after_stalls} # stalls of a node, then the run leaves it out"
    if is_chained:
        yield "CHAINED=yes # the next job of the chain goes on, this one is not requeued"


def _environment(cluster: ClusterConfig) -> Iterator[str]:
    if cluster.modules:
        yield "module purge"
        yield f"module load {' '.join(cluster.modules)}"
    if cluster.interface:
        yield f"export NCCL_SOCKET_IFNAME={cluster.interface} GLOO_SOCKET_IFNAME={cluster.interface}"
    for name, value in cluster.env.items():
        yield f"export {name}={_quote(value)}"


def _stage(cluster: ClusterConfig) -> Iterator[str]:
    if cluster.scratch:
        yield f'stage "{cluster.scratch}" # the environment, to a disk of each node'


def _start(cluster: ClusterConfig, overrides: Sequence[str]) -> Iterator[str]:
    program = "launch.rank" if cluster.launcher == "srun" else "launch.torchrun --slurm"
    yield f'start srun --kill-on-bad-exit=1 {_IN_IMAGE[cluster.container.engine]}"$PYTHON" -m {program} \\'
    yield " \\\n".join(f"    {_quote(override)}" for override in overrides)


def _finish(cluster: ClusterConfig) -> Iterator[str]:
    """On one node, in the image if there is one. SLURM's commands are outside of it: the script calls them."""
    alone = "srun --overlap --nodes=1 --ntasks=1 " if cluster.container.engine == "pyxis" else ""
    yield f'finish {alone}{_IN_IMAGE[cluster.container.engine]}"$PYTHON" -m launch.requeue'


_IN_IMAGE = {"none": "", "pyxis": '"${image[@]}" ', "apptainer": 'apptainer exec "${image[@]}" '}
"""Container engine -> what stands before the command; `image` is an array of the script."""


def _image(cluster: ClusterConfig) -> Iterator[str]:
    container = cluster.container
    mounts = ",".join(["$RUN_DIR:$RUN_DIR", "$PWD:$PWD", *container.mounts])
    if container.engine == "pyxis":
        lines = [f"--container-image={_quote(container.image)}", f'--container-mounts="{mounts}"']
        lines += ['--container-workdir="$PWD"']
    elif container.engine == "apptainer":
        lines = ["--nv"] if cluster.gpus_per_node else []
        lines += [f'--bind "{mounts}"', '--pwd "$PWD"', _quote(container.image)]
    else:
        return
    yield from ["image=(", *(f"    {line}" for line in lines), ")"]


def _quote(value: object) -> str:
    return shlex.quote(str(value))
