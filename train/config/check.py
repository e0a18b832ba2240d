"""A composed configuration -> a checked Run, or every problem at once, before a process group exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.sections import section_types, unknown_sections, validate
from train.config.full import full_settings, read_stored, with_mix
from train.config.rules.every import broken_rules
from train.config.rules.numbers import number_problems
from train.config.run import Run, Sections
from train.schedule.timeline import Timeline

Some = TypeVar("Some")
"""A dataclass whose fields are some of the sections."""


def check(settings: dict[str, Any]) -> Run:
    """Validates every section, then the rules across sections. Raises ConfigError with every problem found."""
    sections, problems = _validated(settings, Sections)
    timeline = None
    if {"schedule", "training"} <= sections.keys():
        try:
            skips = sections["data"].skip if "data" in sections else ()
            timeline = Timeline(sections["schedule"], sections["training"].seq_len, skips)
        except ValueError as error:
            problems.append(f"schedule: {error}")
    _refuse(problems + broken_rules(sections, settings))
    assert timeline is not None
    return Run(**sections, settings=full_settings(sections), timeline=timeline)


def check_some(settings: dict[str, Any], cls: type[Some]) -> Some:
    """Some sections and the rules among them, for a command that starts no run. Raises ConfigError as `check` does."""
    sections, problems = _validated(settings, cls)
    _refuse(problems + broken_rules(sections, settings))
    return cls(**sections)


def load_run(run_dir: str | Path) -> Run:
    """The configuration that a run directory was started with. Raises ConfigError where it holds none that this version
    can read."""
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        raise ConfigError([f"{run_dir} is no run directory: it has no config.yaml"])
    settings = with_mix(read_stored(Path(run_dir)))
    settings["run"] = {**settings.get("run", {}), "dir": str(run_dir)}  # the folder may have been moved
    try:
        return check(for_reading(settings))
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error


def for_reading(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run for whoever reads its checkpoints on a CPU: what computes there, whatever trained it."""
    return settings | {
        "model": settings.get("model", {}) | {"attention": "sdpa", "dispatcher": "standard"},
        "loss": settings.get("loss", {}) | {"kernel": "torch"},
    }


def _validated(settings: dict[str, Any], cls: type) -> tuple[dict[str, Any], list[str]]:
    """(the valid sections; what is wrong with the others). A number that cannot be meant makes a section invalid."""
    types = section_types(cls)
    sections, problems = validate(settings, types)
    numbers = number_problems({name: settings.get(name) for name in types}, full_settings(sections))
    refused = {path.partition(".")[0] for path in numbers}
    valid = {name: section for name, section in sections.items() if name not in refused}
    # said twice otherwise; torchtitan's own words for it name the section only
    problems = [problem for problem in problems if problem.partition(":")[0] not in refused | numbers.keys()]
    return valid, [*unknown_sections(settings, section_types(Sections)), *problems, *numbers.values()]


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError(problems)
