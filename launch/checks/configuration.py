"""Settings and the rules across them: what `python -m train` refuses, all of it at once."""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_pipelines.base.errors import ConfigError
from launch.checks.base import Finding, Subject, failures, ok
from train.config.run import Run
from train.config.start import checked_run
from train.engine.mesh import describe_mesh

SEE_ALL = "python -m train --cfg job shows every setting"


def read(overrides: list[str]) -> tuple[Run | None, list[Finding]]:
    """The run, or all that keeps the overrides from being one."""
    try:
        return checked_run(overrides), []
    except ConfigError as error:
        return None, [finding for problem in error.problems for finding in failures([problem], _hint(problem))]


def _hint(problem: str) -> str:
    """`did you mean seq_len?`, where the problem says so in brackets."""
    hint = re.search(r"\(((?:did you mean|there are|allowed)[^()]*)\)", problem)
    return hint[1] if hint else SEE_ALL


def what_follows(subject: Subject) -> Iterator[Finding]:
    run, timeline = subject.run, subject.run.timeline
    tokens = timeline.num_windows * timeline.seq_len
    yield ok(f"{run.model.name}, {describe_mesh(run.parallelism)}, {timeline.num_steps:,} steps, {tokens:,} tokens")


CHECKS = (what_follows,)
