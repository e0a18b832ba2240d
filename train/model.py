"""Counts the parameters of a model, what a rank holds of them, and what it takes to train them. Allocates nothing.

    python -m train.model trinity_large parallelism=hsdp_ep8           a model of configs/model, on a mesh
    python -m train.model trinity_mini parallelism.expert_parallel_degree=4 parallelism.data_parallel_shard_degree=64
    python -m train.model experiment=trinity_nano                      model, mesh and microbatches of an experiment
    python -m train.model -m experiment=trinity_large training.local_batch_size=2,4,8
    python -m train.model --config-dir ~/mine mine                     a model of your own: ~/mine/model/mine.yaml

The model is built on torch's meta device and sharded by the code that shards it in training, as one of as many
pretended ranks as the mesh has; rank 0 is shown, and none holds more. What it takes in a microbatch is found by running
the layers there; train/blueprint/memory.py says what that assumes. Overrides are Hydra's, as of `python -m train`.
Exit status: 2 for what cannot work as configured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.base.command import CONFIGS, add_overrides, aligned, command_parser, parse_overrides, run_command
from data_pipelines.base.errors import CONFIG_EXIT, ConfigError, answers_errors

if TYPE_CHECKING:
    from train.blueprint.count import Part
    from train.blueprint.memory import Memory
    from train.blueprint.traffic import Moved
    from train.config.run import ModelSections

Lines = list[tuple[str, ...]]
"""Cells of a table."""


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    """Exit code: 0 or CONFIG_EXIT."""
    args = parse(arguments)
    if args.cfg or args.info:
        from data_pipelines.settings.compose import shown

        print(shown(args, settings))
        return 0
    print("train.model: reading the configuration; the engine takes some seconds to load", flush=True)
    for sections in read_each(args.overrides) if args.multirun else [read(args.overrides)]:
        print(report(sections))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser("python -m train.model", description=__doc__)
    multirun = "a table for each value: -m trinity_nano,trinity_mini parallelism=single,hsdp_ep8"
    add_overrides(parser, metavar="MODEL | override", nargs="+", multirun=multirun)
    args = parse_overrides(parser, arguments)
    args.overrides = [text if "=" in text else f"model={text}" for text in args.overrides]
    return args


def model_names(folders: Sequence[Path] = (CONFIGS,)) -> list[str]:
    """Of the files <folder>/model/*.yaml."""
    return sorted(path.stem for folder in folders for path in folder.glob("model/*.yaml"))


def read(overrides: list[str]) -> ModelSections:
    """The sections that say what to count. Raises ConfigError."""
    names = [override.removeprefix("model=") for override in overrides if override.startswith("model=")]
    if len(names) > 1:
        raise ConfigError([f"got {len(names)} models, {', '.join(names)}; name one"])
    from data_pipelines.settings.compose import compose
    from data_pipelines.settings.overrides import further_folders, parse

    for name in names:
        check_name(name, model_names([CONFIGS, *further_folders(parse(overrides))]))
    from train.config.check import check_some
    from train.config.run import ModelSections

    # Kernels and dispatchers have no parameters, and these exist everywhere.
    anywhere = ["model.attention=sdpa", "model.dispatcher=standard", "loss.kernel=torch"]
    return check_some(compose(["run.name=count", *overrides, *anywhere]), ModelSections)


def read_each(overrides: list[str]) -> list[ModelSections]:
    """The sections of each combination of a sweep. Raises ConfigError with all problems."""
    from data_pipelines.settings.sweep import check_each, combinations

    return check_each(combinations(overrides), lambda one: read(one.overrides))


def settings(overrides: list[str]) -> dict[str, Any]:
    """What is counted, as plain containers, defaults included. Raises ConfigError."""
    sections = read(overrides)
    from train.config.full import full_settings

    return full_settings(vars(sections))


def check_name(name: str, known: list[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError([f"model={name}: there is no such model{hint}; there are: {', '.join(known)}"])


def report(sections: ModelSections) -> str:
    """The whole answer. Takes seconds: it loads the engine."""
    from torchtitan.tools.logging import logger

    logger.setLevel("WARNING")  # otherwise it tells of every mesh that it makes
    from train.blueprint.count import count
    from train.blueprint.sharded import blueprint, pretended_ranks
    from train.blueprint.traffic import hsdp_traffic
    from train.engine.mesh import describe_mesh, world_size

    with pretended_ranks(world_size(sections.parallelism)):
        built = blueprint(sections.model, training=sections.training, parallelism=sections.parallelism)
        parts = count(built, sections.optimizer)
        moved = hsdp_traffic(built, num_microbatches=1)
    mesh = describe_mesh(sections.parallelism)
    return "\n\n".join(["", table(sections.model.name, parts), mesh, memory_of(sections, parts), received(moved)])


def table(name: str, parts: list[Part]) -> str:
    """Parameters by kind, and by shape within a kind."""
    total, active = sum(part.total for part in parts), sum(part.active for part in parts)
    lines: Lines = [("kind", "shape", "tensors", "total", "active", "rank 0", "updated by", "names")]
    previous = ""
    for part in parts:
        lines.append(_line(part, part.kind if part.kind != previous else ""))
        previous = part.kind
    num_tensors, on_rank = sum(part.num_tensors for part in parts), sum(part.on_rank for part in parts)
    lines.append(("all", "", f"{num_tensors:,}", f"{total:,}", f"{active:,}", f"{on_rank:,}", "", ""))
    headline = f"{name}: {total:,} parameters, of which a token uses {active:,} ({active / total:.1%})"
    return "\n".join([headline, "", *aligned(lines, words=(0, 6, 7))])


def _line(part: Part, kind: str) -> tuple[str, ...]:
    numbers = (f"{part.num_tensors:,}", f"{part.total:,}", f"{part.active:,}", f"{part.on_rank:,}")
    return (kind, " x ".join(map(str, part.shape)), *numbers, part.updater, " ".join(part.names))


def memory_of(sections: ModelSections, parts: list[Part]) -> str:
    """What a rank takes, and where that fits."""
    from data_pipelines.settings.sections import kind_of
    from train.blueprint.memory import GPUS_GB, USABLE, all_layers, fitting, memory
    from train.config.recompute import RecomputeConfig

    training, parallelism, recompute = sections.training, sections.parallelism, sections.activation_checkpoint
    layers = all_layers(sections.model, training=training, parallelism=parallelism, recompute=recompute)
    taken = memory(
        parts,
        layers,
        model=sections.model,
        optimizer=sections.optimizer,
        training=training,
        parallelism=parallelism,
        loss=sections.loss,
    )
    fits = (f"{name} {GPUS_GB[name]} GB {'yes' if does else 'no'}" for name, does in fitting(taken.peak).items())
    return "\n".join(
        [
            *memory_table(taken),
            f"microbatch     {training.local_batch_size} x {training.seq_len:,} tokens at most, recomputation: "
            f"{kind_of(recompute, RecomputeConfig)['kind']}",
            f"fits           {', '.join(fits)} (to {USABLE:.0%}; by arithmetic: no GPU was asked)",
        ]
    )


def received(moved: Mapping[str, Moved]) -> str:
    """What comes over the network to a rank, of weights and gradients."""
    size = {collective: f"{of.received / 1e9:,.1f} GB" for collective, of in moved.items()}
    return (
        f"network        a rank receives {size['all_gather']} of weights and {size['reduce_scatter']} of gradients "
        f"for a microbatch, and {size['all_reduce']} of gradients of other replicas for a step"
    )


def memory_table(taken: Memory) -> list[str]:
    """A line a kind, and the most that is there at a time."""
    lines: Lines = [("rank 0", "when", "bytes", "GB")]
    for when, kinds in (
        ("always", taken.held),
        ("from forward to backward pass", taken.kept),
        ("for a moment of that", taken.moments),
        ("as optimizers step", taken.step),
    ):
        lines += [(kind, when, f"{size:,}", f"{size / 1e9:.2f}") for kind, size in kinds.items()]
    lines.append(("at most", "at a time", f"{taken.peak:,}", f"{taken.peak / 1e9:.2f}"))
    return aligned(lines, words=(0, 1))


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # pretended ranks have no GPUs, also where there are some
    run_command(main)
