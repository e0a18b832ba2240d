"""Which rank this process is, as torchrun says it; a process that was started alone is rank 0."""

from __future__ import annotations

import os


def this_rank() -> int:
    return int(os.environ.get("RANK", "0"))


def is_rank_0() -> bool:
    return this_rank() == 0
