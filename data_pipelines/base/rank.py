"""Which rank this process is, as torchrun says it, and where; a process that was started alone is rank 0."""

from __future__ import annotations

import os
import socket


def this_rank() -> int:
    return int(os.environ.get("RANK", "0"))


def is_rank_0() -> bool:
    return this_rank() == 0


def is_first_on_node() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def node_name() -> str:
    """Of this machine, as SLURM calls it: the system, or a container, may know it by another name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
