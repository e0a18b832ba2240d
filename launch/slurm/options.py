"""A run -> what sbatch is asked for, as its long options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.cluster.config import ClusterConfig
from train.config.run import Run

Options = dict[str, str]
"""Long name -> value; "" for an option without one."""


def job_options(
    run: Run, cluster: ClusterConfig, *, log: Path, exclude: Sequence[str] = (), is_chained: bool = False
) -> Options:
    """What the job of a run asks for.

    log: its file, in which SLURM's %j may stand. exclude: nodes besides those of the configuration. is_chained: another
    job of the run waits for this one and goes on, so this one is never requeued.
    """
    tasks = cluster.ranks_per_node if cluster.launcher == "srun" else 1
    cpus = cluster.cpus_per_task and cluster.cpus_per_task * cluster.ranks_per_node // tasks
    options: dict[str, str | int | bool | None] = {
        "job-name": run.run.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "nodes": num_nodes(run, cluster),
        "ntasks-per-node": tasks,
        "gpus-per-node": cluster.gpus_per_node or None,
        "cpus-per-task": cpus,
        "time": cluster.time,
        "constraint": cluster.constraint,
        "exclude": ",".join(dict.fromkeys([*cluster.exclude, *exclude])) or None,
        "output": str(log),
        "open-mode": "append",  # a requeued job goes on in the same file
        "no-requeue" if is_chained else "requeue": True,  # SLURM does so by itself after the failure of a node
        "signal": f"B:USR1@{cluster.signal_before_s}",  # B: to the script alone, which hands it on, once to each rank
    }
    options |= cluster.sbatch
    return {name: "" if value is True else str(value) for name, value in options.items() if value is not None}


def num_nodes(run: Run, cluster: ClusterConfig) -> int:
    """As many as the mesh fills: a rule has asked whether it does."""
    return run.world_size // cluster.ranks_per_node


def directive(name: str, value: str) -> str:
    """A line of a batch script. sbatch reads quotes and backslashes there as a shell does."""
    if not value:
        return f"#SBATCH --{name}"
    is_plain = not set(value) & set(" '\"\\#\t")
    text = value if is_plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}={text}"
