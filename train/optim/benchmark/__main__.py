"""What a step of Muon takes, ours and others', on the same matrices and as many CPU ranks as a mesh has.

    python -m train.optim.benchmark                                            a small Nano, 100M parameters, on 8 ranks
    python -m train.optim.benchmark trinity_tiny parallelism=hsdp_2x2_ep2      a model of configs/model, on a mesh
    python -m train.optim.benchmark --muons ours-float32,muon-optimizer --steps 9     some of them, for longer
    python -m train.optim.benchmark --plan experiment=trinity_large            balance of its plan; starts no rank

Against ours stand, in the same run, muon-optimizer's distributed Muon, torch.optim.Muon and torchtitan's DistMuon. The
first two take whole matrices on every rank, as DDP leaves them, each expert a matrix of its own; the others take them
sharded, as the engine does in training. All begin with gradients that are summed over replicas and end with new weights
on every rank that holds them; what DDP and FSDP do before and after is no part of a step. A rank has one thread; where
ranks share cores, only ratios mean something. Ours is measured twice, as float32 is faster on many CPUs; the others
compute in bfloat16, always.

Counted are, over all ranks, the flops of matrix products, against each matrix once, and bytes received, against the
least that is possible (train/optim/benchmark/bounds.py). Phases are the profiler's, of one more step.

Exit code: 0; 1 where ours multiplies a matrix more than once or receives more than 1.3 times the bound; 2 for what
cannot work as configured.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from data_pipelines.base.command import add_overrides, command_parser, parse_overrides, run_command
from data_pipelines.base.errors import CONFIG_EXIT, DAMAGE_EXIT, ConfigError, answers_errors
from train.model import read, settings

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from train.config.run import ModelSections
    from train.optim.benchmark.measure import Measured

PROBLEM = (
    *("trinity_nano", "model.dim=256", "model.dense_hidden_dim=768", "model.expert_hidden_dim=64"),
    *("model.num_heads=4", "model.num_kv_heads=1", "model.head_dim=64"),
    *("model.num_layers=18", "model.num_dense_layers=4"),  # of each shape as many as muon-optimizer can pad on 8 ranks
    "parallelism=hsdp_2x4_ep2",
)
"""Trinity Nano with a quarter of its width and a third of its depth: 96M parameters in hidden matrices."""
OURS = ("ours-float32", "ours-bfloat16")
MUONS = (*OURS, "muon-optimizer", "torch", "torchtitan")
STEPS = 3
MAX_BYTES_RATIO = 1.3


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    args = parse(arguments)
    if args.cfg or args.info:
        from data_pipelines.settings.compose import shown

        print(shown(args, settings))
        return 0
    print("train.optim.benchmark: reading the configuration; the engine takes some seconds to load", flush=True)
    sections = read(args.overrides)
    if args.plan:
        print(plan_report(sections))
        return 0
    from train.optim.benchmark.measure import measure
    from train.optim.benchmark.report import table

    results = measure(sections, args.muons, steps=args.steps)
    print(f"\n{table(results)}")
    return DAMAGE_EXIT if any(wastes(results[name]) for name in OURS if name in results) else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser("python -m train.optim.benchmark", description=__doc__)
    add_overrides(parser, metavar="MODEL | override")
    parser.add_argument(
        "--muons",
        metavar="NAME,...",
        default=",".join(MUONS),
        help="which are measured; the first is what the others are compared with (default: %(default)s)",
    )
    parser.add_argument("--steps", metavar="N", type=int, default=STEPS, help="timed ones (default: %(default)s)")
    parser.add_argument("--plan", action="store_true", help="show how evenly the plan of the mesh is laid, and stop")
    args = parse_overrides(parser, arguments)
    args.overrides = [text if "=" in text else f"model={text}" for text in args.overrides or PROBLEM]
    args.muons = list(dict.fromkeys(name.strip() for name in args.muons.split(",")))
    if unknown := [name for name in args.muons if name not in MUONS]:
        parser.error(f"--muons: got {', '.join(unknown)}; there are {', '.join(MUONS)}")
    if args.steps < 1:
        parser.error(f"--steps: must be at least 1, got {args.steps}")
    return args


def plan_report(sections: ModelSections) -> str:
    from train.engine.mesh import describe_mesh
    from train.optim.benchmark.planned import busiest_over_mean, planned_loads

    loads = planned_loads(sections)
    return (
        f"{sections.model.name} on {describe_mesh(sections.parallelism)}: {sum(loads):.3e} flops a step, "
        f"busiest rank {busiest_over_mean(loads):.3f} x mean"
    )


def wastes(ours: Measured) -> bool:
    return round(ours.flops_ratio, 2) > 1 or ours.bytes_ratio > MAX_BYTES_RATIO


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # ranks of this benchmark are CPUs', also where there are GPUs
    run_command(main)
