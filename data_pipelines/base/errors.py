"""Errors that are meant for people: printed without a traceback, with an exit code of their own."""

from __future__ import annotations

import os
import sys

CONFIG_EXIT = 2
"""Exit code of a configuration, run directory or corpus that cannot work as given."""
RUN_EXIT = 3
"""Exit code of a run that had to stop: non-finite numbers, a full disk, W&B that does not start."""


class ConfigError(ValueError):
    """Everything that is wrong with a configuration; one problem a line."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


class RunError(RuntimeError):
    """A run that cannot go on. The message says what stands, and what to do."""


def fail(problems: list[str], exit_code: int) -> int:
    """Says what is wrong, a line a problem, and returns the exit code.

    Every rank speaks: the launcher stops the others as soon as one has ended, and that may be rank 0.
    """
    number = os.environ.get("RANK", "0")
    rank = "" if number == "0" else f"rank {number}: "
    print("".join(f"error: {rank}{problem}\n" for problem in problems), end="", file=sys.stderr, flush=True)
    return exit_code


RESUME_ADVICE = "The same command goes on from the last complete checkpoint."
