"""launch/checks/cluster.py: mesh, nodes, and what SLURM answers."""

from __future__ import annotations

import pytest

from launch.checks import base, cluster
from tests.launch.checks.world import Fault, World, assert_found


def container(world: World, *, image: str, mounts: str = "") -> None:
    section = f"cluster.container={{engine: apptainer, image: '{image}', mounts: [{mounts}]}}"
    world.on_cluster(section)


def refused(world: World) -> None:
    world.on_cluster("cluster.account=nobody")
    world.command(
        "sbatch",
        'case "$*" in *--account=nobody*) echo "allocation failure: Invalid account or account/partition combination '
        'specified" >&2; exit 1;; esac',
    )


def few_nodes(world: World) -> None:
    world.on_cluster()
    world.command("sinfo", "echo 'main*|1|infinite'")


def without_slurm(world: World) -> None:
    world.on_cluster()
    world.patch.setenv("PATH", str(world.folder))


def without_answer(world: World) -> None:
    world.on_cluster()
    world.command("sbatch", "exec sleep 30")
    world.patch.setattr(cluster, "ask", lambda command: cluster_ask(command, 0.2))


def little_memory(world: World) -> None:
    world.patch.setattr(cluster, "_memory_bytes", lambda: 10**4)


def small_gpu(world: World) -> None:
    for module in (base, cluster):
        world.patch.setattr(module, "count_gpus", lambda: 8)
    world.patch.setattr(cluster, "_smallest_gpu_bytes", lambda: 10**4)


def large_mesh(world: World) -> None:
    world.set("parallelism=hsdp_2x2_ep2")
    for module in (base, cluster):
        world.patch.setattr(module, "most_ranks_here", lambda: 3)


def modules(world: World) -> None:
    world.on_cluster("cluster.modules=[cuda/99]")


cluster_ask = cluster.ask

FAULTS = {
    "mesh for another machine": Fault(large_mesh, "warning", "cores for 4 ranks"),
    "less memory than weights": Fault(little_memory, "fail", "this machine has 10 kB of memory"),
    "GPUs smaller than weights": Fault(small_gpu, "fail", "a GPU here has 10 kB"),
    "sbatch not on PATH": Fault(without_slurm, "fail", "sbatch, squeue, sinfo, scontrol: not on PATH"),
    "partition that does not exist": Fault(
        lambda world: world.on_cluster("cluster.partition=gpu"),
        "fail",
        r"cluster\.partition=gpu: the cluster has no such",
    ),
    "more nodes than there are": Fault(few_nodes, "fail", "fills 2 nodes, but partition main has 1"),
    "ranks that do not fill the nodes": Fault(
        lambda world: world.on_cluster("cluster.cpu_ranks_per_node=3"), "fail", "do not fill whole nodes"
    ),
    "nodes that are not those of the mesh": Fault(
        lambda world: world.on_cluster("cluster.nodes=3"), "fail", r"cluster\.nodes=3"
    ),
    "experts over several nodes": Fault(
        lambda world: world.on_cluster("cluster.cpu_ranks_per_node=1", "cluster.nodes=4"), "fail", "would span nodes"
    ),
    "account that does not exist": Fault(refused, "fail", "SLURM refuses the job: Invalid account"),
    "controller that does not answer": Fault(without_answer, "fail", "did not answer"),
    "image that does not exist": Fault(
        lambda world: container(world, image="/nowhere/image.sif"), "fail", "image.sif does not exist"
    ),
    "mount that does not exist": Fault(
        lambda world: container(world, image="docker://x", mounts="'/nowhere:/data'"), "fail", "/nowhere does not exist"
    ),
    "module that does not exist": Fault(modules, "fail", "module load cuda/99"),
    "signal before the start": Fault(
        lambda world: world.on_cluster("cluster.time='1:00'"), "fail", "told to stop as it starts"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])


def test_slurm_is_asked_for_what_the_job_would_ask(world: World) -> None:
    world.on_cluster("cluster.partition=main", "cluster.exclude=[n3,n4]", "cluster.sbatch={exclusive: true, mem: 0}")
    world.command("sbatch", f'echo "$*" > {world.folder}/asked')
    world.findings()
    asked = (world.folder / "asked").read_text().split()
    assert asked[0] == "--test-only"
    wanted = {"--nodes=2", "--ntasks-per-node=2", "--partition=main", "--exclude=n3,n4", "--exclusive", "--mem=0"}
    assert wanted <= set(asked)
