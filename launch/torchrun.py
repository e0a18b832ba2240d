"""Ranks of this node, and with the same command on every other node the ranks of all: torchrun's agent, with a mesh
that says how many there are, and signals and exit codes that are not lost.

    ./launch/torchrun.sh experiment=smoke                                              as many ranks as the mesh has
    ./launch/torchrun.sh --nodes 2 --node-rank 0 --head gpu1:29400 experiment=mine     on gpu1
    ./launch/torchrun.sh --nodes 2 --node-rank 1 --head gpu1:29400 experiment=mine     on gpu2

torchrun itself answers a signal by ending its ranks, kills them 30 s later in the midst of a checkpoint, and exits with
1 whatever a rank said. Here its agent runs in a thread, where it hears no signal: those that come are handed to each
rank once, and the exit code is that of the rank that failed first. Every rank's output is in <run>/logs.

Exit code: 0; else that of the first rank that failed (128 + n: by signal n).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from data_pipelines.base.command import add_overrides, command_parser, parse_overrides
from data_pipelines.base.errors import CONFIG_EXIT, REQUEUE_EXIT, ConfigError, answers_errors, fail
from launch.rank import end_with_nothing_to_save
from launch.ranks import SAVE_S, no_log, threads_of_rank
from launch.slurm.requeue import FINAL
from train.process.children import children
from train.process.stop import STOP_SIGNALS
from train.process.warm import shell_exit_code

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

    from train.config.run import Run

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
JOIN_S = 900
"""How long the first node waits for the last one: schedulers start them minutes apart."""
CONNECT_S = 5
ANY_PORT = 0


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Which of how many nodes this is, and where they meet."""

    count: int = 1
    number: int = 0
    head: str = f"localhost:{ANY_PORT}"
    """host:port of the first one."""
    run_id: str = "local"
    """The same on every node, and another for every start."""


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    args = parse(arguments)
    if args.cfg or args.info:
        from train.config.start import print_settings

        return print_settings(args)
    nodes = nodes_of_slurm(os.environ) if args.slurm else Nodes(count=args.nodes, number=args.node_rank, head=args.head)
    from train.config.start import checked_run

    run = checked_run(args.overrides)
    num_ranks = args.ranks_per_node or ranks_of_node(run, nodes.count)
    os.environ["OMP_NUM_THREADS"] = str(threads_of_rank(num_ranks))
    return launch(nodes, num_ranks, run.run_dir, args.overrides, max_restarts=args.max_restarts)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser("./launch/torchrun.sh", description=__doc__)
    add_overrides(parser)
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="how many take part (1)")
    parser.add_argument(
        "--node-rank", type=int, default=0, metavar="R", help="which of them this is: 0 to N-1; 0 is HEAD"
    )
    parser.add_argument("--head", default=Nodes.head, metavar="HOST:PORT", help="where the first one is reached")
    parser.add_argument("--ranks-per-node", type=int, metavar="K", help="(the mesh's ranks over the nodes)")
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="M",
        help="starts again after a crash, from the last checkpoint (0)",
    )
    parser.add_argument("--slurm", action="store_true", help="take nodes and head from SLURM: in a batch script")
    args = parse_overrides(parser, arguments)
    if args.nodes < 1 or not 0 <= args.node_rank < args.nodes:
        parser.error(f"--nodes {args.nodes} --node-rank {args.node_rank}: node ranks are 0 to {args.nodes - 1}")
    if args.nodes > 1 and args.head == Nodes.head:
        parser.error(
            f"--nodes {args.nodes}: needs --head HOST:PORT, an address of the first node that all others reach"
        )
    port = re.fullmatch(r"\S+:(\d+)", args.head)
    if not port or (args.nodes > 1 and not 0 < int(port[1]) < 2**16):
        parser.error(f"--head {args.head}: expected HOST:PORT, with a port from 1 to 65535")
    if args.max_restarts < 0:
        parser.error(f"--max-restarts {args.max_restarts}: must not be negative")
    if args.ranks_per_node is not None and args.ranks_per_node < 1:
        parser.error(f"--ranks-per-node {args.ranks_per_node}: must be at least 1")
    return args


def nodes_of_slurm(environment: Mapping[str, str]) -> Nodes:
    """Raises ConfigError outside of a batch script: nothing is guessed."""
    names = ("SLURM_JOB_NUM_NODES", "SLURM_NODEID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID")
    if missing := [name for name in names if not environment.get(name)]:
        raise ConfigError([f"{', '.join(missing)}: not set; --slurm is for a batch script of python -m launch.submit"])
    count, number, host, port, job = (environment[name] for name in names)
    run_id = f"{job}.{environment.get('SLURM_RESTART_COUNT', '0')}"
    return Nodes(count=int(count), number=int(number), head=f"{host}:{port}", run_id=run_id)


def ranks_of_node(run: Run, num_nodes: int) -> int:
    """Raises ConfigError where the mesh does not say, or its ranks do not fill the nodes."""
    if run.parallelism.data_parallel_shard_degree == -1:
        raise ConfigError(
            ["parallelism.data_parallel_shard_degree=-1: takes the ranks that are started; say --ranks-per-node K"]
        )
    if run.world_size % num_nodes:
        raise ConfigError(
            [
                f"--nodes {num_nodes}: does not divide the {run.world_size} ranks of the mesh; change "
                "parallelism.data_parallel_replicate_degree or data_parallel_shard_degree, or the nodes"
            ]
        )
    return run.world_size // num_nodes


def launch(nodes: Nodes, num_ranks: int, run_dir: Path, overrides: list[str], *, max_restarts: int) -> int:
    """All ranks of this node, to their end, and again after a crash. Every node counts its own restarts: where one
    fails, the ranks of the others do, since they can no longer talk to it."""
    exit_code = 0
    if nodes.count > 1:
        waits = f"waiting for {nodes.count} nodes at {nodes.head}, {JOIN_S // 60} minutes at most"
        print(f"torchrun: node {nodes.number}: {waits}", file=sys.stderr, flush=True)
    with signals_for_ranks() as heard:
        for restart in range(max_restarts + 1):
            if restart:
                print(
                    f"torchrun: exit code {exit_code}: restart {restart} of {max_restarts}", file=sys.stderr, flush=True
                )
            if nodes.number and (error := wait_for_head(nodes.head)):
                return not_met(nodes.head, error)
            exit_code = run_once(launch_config(nodes, num_ranks, run_dir, restart), overrides)
            if exit_code in FINAL or exit_code == REQUEUE_EXIT or heard:
                break
    return exit_code


@contextmanager
def signals_for_ranks() -> Iterator[list[int]]:
    """Hands the signals of HANDED_ON to every rank while the block runs; yields those that came.

    Ranks are in sessions of their own, so not even Ctrl-C reaches them twice.
    """
    heard: list[int] = []
    others = set(children())  # multiprocessing's own helper, for instance, which SIGUSR1 would kill

    def hand_on(number: int, frame: object) -> None:
        heard.append(number)
        ranks = set(children()) - others
        if not ranks:  # while the nodes meet
            os.write(sys.stderr.fileno(), b"\ntorchrun: stopped before it had any rank\n")
            os._exit(REQUEUE_EXIT if number in STOP_SIGNALS else 128 + number)
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    kept = [
        number for number in HANDED_ON if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGUSR1
    ]
    before = {number: signal.signal(number, hand_on) for number in kept}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_once(config: LaunchConfig, overrides: list[str]) -> int:
    """Starts the ranks of this node and waits for them. Returns their exit code."""
    ended: list[int] = []
    agent = Thread(target=lambda: ended.append(run_agent(config, overrides)), daemon=True)
    agent.start()
    while agent.is_alive():
        agent.join(0.2)  # signals are heard between two of them
    return ended[0] if ended else 1


def run_agent(config: LaunchConfig, overrides: list[str]) -> int:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    try:
        with no_log():
            elastic_launch(config, entrypoint=sys.executable)("-m", "train", *overrides)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        was_asked = failure.exitcode == REQUEUE_EXIT
        said = "its ranks have stopped as asked" if was_asked else f"rank {rank} ended first"
        print(f"torchrun: {said}, with exit code {failure.exitcode}", file=sys.stderr, flush=True)
        return shell_exit_code(failure.exitcode)
    except RendezvousError as error:
        return not_met(config.rdzv_endpoint, error)
    return 0


def wait_for_head(head: str) -> OSError | None:
    """Until the first node listens, or why it does not after JOIN_S: torch's client gives up sooner, at length."""
    host, _, port = head.rpartition(":")
    deadline = time.monotonic() + JOIN_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
            return None
        except OSError as error:  # a name that is not known may become so, too
            if time.monotonic() > deadline:
                return error
        time.sleep(0.5)


def not_met(head: str, error: Exception) -> int:
    return fail([f"--head {head}: the nodes did not meet there, or the first one has ended ({error})"], 1)


def launch_config(nodes: Nodes, num_ranks: int, run_dir: Path, restart: int) -> LaunchConfig:
    """What `torchrun --rdzv-backend c10d` sets, with the words of each rank in <run>/logs; of the first here too."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    is_first = nodes.number == 0
    quiet = {rank: Std.ALL for rank in range(1, num_ranks)}  # rank 0 of all is the first of some node: torch sorts them
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return LaunchConfig(
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        nproc_per_node=num_ranks,
        run_id=f"{nodes.run_id}.{restart}",
        rdzv_backend="c10d",
        rdzv_endpoint=nodes.head,
        rdzv_configs={"is_host": is_first, "join_timeout": JOIN_S},
        local_addr="127.0.0.1" if nodes.count == 1 else None,  # a laptop may have no name service to ask
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(logs), redirects=quiet, tee={0: Std.ALL}),
        log_line_prefix_template="rank ${rank}: ",
        shutdown_timeout=SAVE_S,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, end_with_nothing_to_save)  # until there are ranks to hand it to
    sys.exit(main(sys.argv[1:]))
