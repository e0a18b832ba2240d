"""Which rank this process is."""

from __future__ import annotations

import os


def is_rank_0() -> bool:
    return os.environ.get("RANK", "0") == "0"
