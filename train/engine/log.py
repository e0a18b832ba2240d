"""Where torchtitan's log goes."""

from __future__ import annotations

import logging
import os

from data_pipelines.base.rank import is_rank_0


def send_engine_log_to(path: os.PathLike[str]) -> None:
    """torchtitan's log of rank 0 goes to a file; warnings of every rank go to the console too."""
    from torchtitan.tools.logging import logger

    console = logging.StreamHandler()
    console.setLevel(logging.ERROR)
    handlers: list[logging.Handler] = [console]
    if is_rank_0():
        handlers.append(logging.FileHandler(path))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers, logger.propagate = handlers, False
    # It advises to flatten meshes inside of torchtitan's gradient norm, once per start.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    logger.setLevel(logging.INFO)
