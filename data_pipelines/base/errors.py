"""Errors that are meant for people: printed without a traceback, with an exit code of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps

from data_pipelines.base.rank import this_rank

CONFIG_EXIT = 2
"""Exit code of a configuration, an argument, a run directory or a corpus that cannot work as given."""
RUN_EXIT = 3
"""Exit code of a run that had to stop: non-finite numbers, a full disk, W&B that does not start."""
REQUEUE_EXIT = 10
"""Exit code of a run that was asked to stop: its checkpoint is complete, or it had nothing to save yet. RESUME_ADVICE
holds."""
STALL_EXIT = 12
"""Exit code of a run that did not move, and was ended by its watchdog. RESUME_ADVICE holds."""
DAMAGE_EXIT = 1
"""Exit code of a comparison: data are not what was recorded of them."""

RESUME_ADVICE = "The same command goes on from the last complete checkpoint."

UNSET = "got ''; was a variable of the shell not set?"
"""Why a setting or an argument is empty: --out "$OUT" where nobody has set OUT."""

Main = Callable[[list[str]], int]
"""A program as a function: its arguments -> its exit code."""


class ConfigError(ValueError):
    """Everything that is wrong with a configuration; one problem a line."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)  # pickle would make one of the joined text


class RunError(RuntimeError):
    """A run that cannot go on. The message says what stands, and what to do."""


class Stopped(Exception):
    """A process of a command that could not finish: what the user should know, and its exit code."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def answers_errors(exit_codes: Mapping[type[Exception], int]) -> Callable[[Main], Main]:
    """Decorates the main of a command: an error of these kinds becomes "error:" lines and its exit code.

    The first kind that fits counts. Anything else is a mistake in the program and keeps its traceback.
    """

    def decorate(main: Main) -> Main:
        @wraps(main)
        def answer(arguments: list[str]) -> int:
            try:
                return main(arguments)
            except tuple(exit_codes) as error:
                problems = error.problems if isinstance(error, ConfigError) else [words(error)]
                return fail(problems, next(code for kind, code in exit_codes.items() if isinstance(error, kind)))

        return answer

    return decorate


def words(error: Exception) -> str:
    """What an error says; of the operating system's, the file and what is wrong with it, without a number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def fail(problems: list[str], exit_code: int) -> int:
    """Says what is wrong, a line a problem, and returns the exit code.

    Every rank speaks: the launcher stops the others as soon as one has ended, and that may be rank 0.
    """
    rank = f"rank {this_rank()}: " if this_rank() else ""
    print("".join(f"error: {rank}{problem}\n" for problem in problems), end="", file=sys.stderr, flush=True)
    return exit_code
