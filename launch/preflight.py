"""Everything about a run that can be known to fail before it holds an accelerator.

    python -m launch.preflight experiment=smoke                       for this machine
    python -m launch.preflight experiment=trinity_large cluster=NAME  for a SLURM cluster, on its login node
    python -m launch.preflight experiment=trinity_large --json        the same for a program

Prints a table: what is ok, what may fail, what will fail, and what to do about it. Nothing is prepared, and nothing is
left behind; up to 256 MB are written to the run's file system to measure it. What the ranks' machines alone can tell is
not asked. Exit status: 0, or 2 where something will fail.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from data_pipelines.base.command import overrides_parser, parse_overrides, run_command
from data_pipelines.base.errors import CONFIG_EXIT, ConfigError, answers_errors

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from launch.checks.base import Check, Finding
    from train.config.run import Run

Progress = Callable[[str], object]
"""Is told the name of each group of checks as it begins."""


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    """Exit code: 0 or CONFIG_EXIT."""
    parser = overrides_parser("python -m launch.preflight", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, and nothing else on stdout")
    args = parse_overrides(parser, arguments)
    if args.cfg or args.info:
        from train.config.start import print_settings

        return print_settings(args)
    started = time.monotonic()
    announce("reading the configuration")
    from launch.checks import configuration

    run, problems = configuration.read(args.overrides)
    findings = [replace(problem, group="configuration") for problem in problems] + (
        preflight(run, announce) if run else []
    )
    print(json.dumps([asdict(finding) for finding in findings], indent=1) if args.json else table(findings))
    announce(f"{verdict(findings)}, {time.monotonic() - started:.1f} s")
    return CONFIG_EXIT if failed(findings) else 0


def preflight(run: Run, progress: Progress = lambda group: None) -> list[Finding]:
    """Every finding about a checked run, in the order of the groups. A check that breaks off is a finding itself."""
    from launch.checks.base import Subject, guarded

    subject, findings = Subject(run), []
    for group, checks in groups().items():
        progress(group)
        for check in checks:
            findings += [replace(finding, group=group) for finding in guarded(check, subject)]
    return findings


def groups() -> dict[str, Sequence[Check]]:
    """Kind of check -> its checks; those first that others stand on."""
    from launch.checks import (
        cluster,
        configuration,
        corpus,
        machine,
        packages,
        resumption,
        storage,
        tokenizer,
        wandb,
    )

    modules = (configuration, cluster, packages, machine, resumption, storage, corpus, tokenizer, wandb)
    return {module.__name__.rpartition(".")[2]: module.CHECKS for module in modules}


def failed(findings: Sequence[Finding]) -> list[Finding]:
    """Those that would end the run."""
    return [finding for finding in findings if finding.level == "fail"]


def table(findings: Sequence[Finding]) -> str:
    """A line a finding, longer ones wrapped; the remedy of each below it."""
    width = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    lines = []
    for finding in findings:
        start = f"{finding.level:<8} {finding.group:<14} "
        indent = " " * len(start)
        wrap = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines.append(wrap.fill(start + finding.what))
        if finding.remedy:
            wrap.subsequent_indent = f"{indent}   "
            lines.append(wrap.fill(f"{indent}-> {finding.remedy}"))
    return "\n".join(lines)


def verdict(findings: Sequence[Finding]) -> str:
    """`21 ok, 2 warnings, 1 failed`."""
    levels = [finding.level for finding in findings]
    return f"{levels.count('ok')} ok, {levels.count('warning')} warnings, {levels.count('fail')} failed"


def announce(text: str) -> None:
    print(f"preflight: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
