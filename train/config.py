"""YAML and overrides -> checked sections. Hydra composes, pydantic validates each section against the class it builds.

All problems are reported at once, by path, before a process group or an accelerator exists.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from data_pipelines.config import DataConfig, FilesData, ShardsData, StdlibData
from train import cpu  # noqa: F401  (before torchtitan)
from train.balance import BalanceConfig
from train.errors import ConfigError
from train.model.config import ModelConfig
from train.optim.config import OptimizerConfig
from train.overrides import CONFIGS
from train.sinks import MetricsConfig
from train.timeline import ScheduleConfig, Timeline


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """The `run` section."""

    name: str
    """Name of the run, in W&B and in the default folder."""
    dir: str
    """Folder of the run: config.yaml, metrics.jsonl, checkpoint/. Starting again on the same folder resumes."""
    stop_after_step: int | None = None
    """Stop, with a checkpoint, after this step; the schedule stays that of the whole run. null: run to the end."""


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """The `loss` section."""

    z_loss_weight: float = 0.0
    """Weight of the mean squared logsumexp of the LM logits. Trinity Large: 1e-6, after larger values destabilised it
    (report, section 4)."""
    kernel: Literal["torch", "liger"] = "torch"
    """Who makes the loss: `torch`'s operations, anywhere, or `liger`'s fused linear cross-entropy (train/liger.py), on
    CUDA with the extra of that name installed. liger reports neither the mean logsumexp nor the largest logit."""
    chunk_tokens: int = 1024
    """Tokens of a microbatch whose logits exist at a time; bounds memory. Numbers differ only by the order of sums.
    liger chooses its own: as many as keep the logits as small as the hidden states of the microbatch."""

    def __post_init__(self) -> None:
        if self.z_loss_weight < 0:
            raise ValueError(f"z_loss_weight must not be negative, got {self.z_loss_weight}")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}")


@dataclass(kw_only=True, slots=True)
class ValidationConfig:
    """The `validation` section: held-out loss per source, at each checkpoint."""

    windows: int = 32
    """Windows of each source; 0 turns validation off."""


# Section -> the class that it builds: ours, or torchtitan's as "module:class", imported when the section is checked.
SECTIONS: dict[str, Any] = {
    "run": RunConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "balance": BalanceConfig,
    "loss": LossConfig,
    "data": DataConfig,
    "schedule": ScheduleConfig,
    "training": "torchtitan.config:TrainingConfig",
    "parallelism": "torchtitan.config:ParallelismConfig",
    "checkpoint": "torchtitan.components.checkpointer:CheckpointManager.Config",
    "activation_checkpoint": "by kind",
    "compile": "torchtitan.config:CompileConfig",
    "comm": "torchtitan.config:CommConfig",
    "debug": "torchtitan.config:DebugConfig",
    "profiler": "torchtitan.tools.profiler:Profiler.Config",
    "metrics": MetricsConfig,
    "validation": ValidationConfig,
}
ACTIVATION_CHECKPOINTS = {
    "none": None,
    "selective": "torchtitan.distributed.activation_checkpoint:SelectiveAC.Config",
    "full": "torchtitan.distributed.activation_checkpoint:FullAC.Config",
    "memory_budget": "torchtitan.distributed.activation_checkpoint:MemoryBudgetAC.Config",
}


@dataclass(frozen=True)
class Run:
    """A configuration that passed every check."""

    settings: dict[str, Any]
    """The resolved YAML."""
    sections: dict[str, Any]
    """Section name -> validated object."""
    timeline: Timeline

    def section(self, name: str) -> Any:
        return self.sections[name]

    @property
    def run_dir(self) -> Path:
        return Path(self.sections["run"].dir)

    @property
    def world_size(self) -> int:
        return world_size(self.sections["parallelism"])


def world_size(parallelism: Any) -> int:
    """Ranks of a mesh; a shard degree of -1 takes what the launcher started."""
    if parallelism.data_parallel_shard_degree == -1:
        return int(os.environ.get("WORLD_SIZE") or parallelism.data_parallel_replicate_degree)
    return parallelism.data_parallel_replicate_degree * parallelism.data_parallel_shard_degree


def compose(overrides: list[str]) -> dict[str, Any]:
    """The resolved configuration as plain containers. Raises ConfigError where Hydra cannot compose one."""
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            config = hydra_compose("config", overrides=[_let_through(override) for override in overrides])
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([_first_line(error)]) from error


def _let_through(override: str) -> str:
    """Adds `++` to a value's override: Hydra stops at the first unknown key, our check names all of them."""
    key, equals, _ = override.partition("=")
    is_group = (CONFIGS / key).is_dir()
    return override if not equals or is_group or not key[:1].isalpha() else f"++{override}"


def _first_line(error: Exception) -> str:
    """Hydra's message without its hints on how to search, but with what there is to choose from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Config search path", "provider=", "Set the env", "See "))]
    return "; ".join(kept).replace("\t", "")


def check(settings: dict[str, Any]) -> Run:
    """Validates every section, then the rules across sections. Raises ConfigError with every problem found."""
    problems: list[str] = []
    sections = _sections(settings, SECTIONS, problems)
    timeline = _timeline(sections, problems)
    _refuse_broken_rules(sections, settings, problems)
    assert timeline is not None
    return Run(settings, sections, timeline)


def check_sections(settings: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Some sections and the rules among them, for a command that starts no run. Raises ConfigError as `check` does."""
    problems: list[str] = []
    sections = _sections(settings, names, problems)
    _refuse_broken_rules(sections, settings, problems)
    return sections


def load_run(run_dir: str | Path) -> Run:
    """The configuration that a run directory was started with. Raises ConfigError where it holds none."""
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        raise ConfigError([f"{run_dir} is no run directory: it has no config.yaml"])
    settings = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    settings["run"]["dir"] = str(run_dir)  # type: ignore[index]  (the folder may have been moved)
    settings["model"]["attention"] = "sdpa"  # type: ignore[index]  (who opens a run reads it, on any machine)
    settings["loss"]["kernel"] = "torch"  # type: ignore[index]  (likewise)
    return check(settings)  # type: ignore[arg-type]


def _sections(settings: dict[str, Any], names: Iterable[str], problems: list[str]) -> dict[str, Any]:
    """The named sections that validate; what is wrong with the others, and sections unknown, go to `problems`."""
    problems += [f"{name}: unknown section{_suggestion(name, SECTIONS)}" for name in settings if name not in SECTIONS]
    sections: dict[str, Any] = {}
    for name in names:
        try:
            sections[name] = _validate(name, settings.get(name, {}))
        except ConfigError as error:
            problems += error.problems
    return sections


def _refuse_broken_rules(sections: dict[str, Any], settings: dict[str, Any], problems: list[str]) -> None:
    """Raises ConfigError with `problems` and the rules that do not hold, if there are any."""
    from train.rules import broken_rules

    problems = [*problems, *broken_rules(sections, settings)]
    if problems:
        raise ConfigError(problems)


def _timeline(sections: dict[str, Any], problems: list[str]) -> Timeline | None:
    if not {"schedule", "training"} <= sections.keys():
        return None
    try:
        return Timeline(sections["schedule"], sections["training"].seq_len)
    except ValueError as error:
        problems.append(f"schedule: {error}")
        return None


def _validate(name: str, section: Any) -> Any:
    if not isinstance(section, dict):
        raise ConfigError([f"{name}: got {section!r}, expected a section with keys"])
    cls = SECTIONS[name]
    if cls == "by kind":
        cls, section = _activation_checkpoint(name, dict(section))
        if cls is None:
            return None
    try:
        return TypeAdapter(_load(cls)).validate_python(section, extra="forbid")
    except ValidationError as error:
        raise ConfigError([_describe(name, _load(cls), problem) for problem in error.errors()]) from error


def _activation_checkpoint(name: str, section: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    kind = section.pop("kind", "none")
    if kind not in ACTIVATION_CHECKPOINTS:
        allowed = ", ".join(ACTIVATION_CHECKPOINTS)
        raise ConfigError([f"{name}.kind: got {kind!r}, allowed: {allowed}{_suggestion(kind, ACTIVATION_CHECKPOINTS)}"])
    if kind == "none" and section:
        raise ConfigError([f"{name}.{key}: has no effect with kind=none" for key in section])
    return ACTIVATION_CHECKPOINTS[kind], section


def _load(cls: Any) -> Any:
    """ "module:Outer.Inner" -> the class; anything else as it is."""
    if not isinstance(cls, str):
        return cls
    module, _, path = cls.partition(":")
    loaded: Any = import_module(module)
    for part in path.split("."):
        loaded = getattr(loaded, part)
    return loaded


def _describe(section: str, cls: Any, problem: Any) -> str:
    """One line: path, what was got, what is allowed, and a near miss."""
    kinds = {"stdlib": StdlibData, "files": FilesData, "shards": ShardsData}
    loc = [part for part in problem["loc"]]
    if section == "data" and loc and loc[0] in kinds:  # pydantic names the member of the union; no key does
        cls = kinds[loc.pop(0)]
    path = ".".join([section, *(str(part) for part in loc)])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        fields = [field.name for field in _fields_at(cls, loc[:-1])]
        return f"{path}: unknown key{_suggestion(str(loc[-1]), fields)}"
    if problem["type"].startswith("missing"):
        return f"{path}: is required and missing"
    return f"{path}: {problem['msg'].removeprefix('Value error, ')}" + _got(problem)


def _got(problem: Any) -> str:
    value = problem.get("input")
    return "" if isinstance(value, dict) or dataclasses.is_dataclass(value) else f" (got {value!r})"


def _fields_at(hint: Any, loc: list[Any]) -> list[Any]:
    """Fields of the dataclass that the keys and indices `loc` lead to, starting at a class."""
    for part in loc:
        hint = _unwrap(hint)
        if dataclasses.is_dataclass(hint):
            hint = get_type_hints(hint, include_extras=True).get(str(part))
        else:
            hint = get_args(hint)[-1] if get_args(hint) else None  # an element of a list, a value of a dict
    hint = _unwrap(hint)
    return list(dataclasses.fields(hint)) if dataclasses.is_dataclass(hint) else []


def _unwrap(hint: Any) -> Any:
    """X out of Annotated[X, ...] and of X | None."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        return _unwrap(next(arg for arg in get_args(hint) if arg is not type(None)))
    return hint


def _suggestion(name: str, known: Any) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else f" (there are: {', '.join(known)})"
