"""The Muons that are compared: ours, and those of muon-optimizer, torch and torchtitan.

Each is made of the same matrices, in the layout that it is written for. muon-optimizer's distributed Muon and torch's
take whole matrices, replicated on every rank; ours and torchtitan's DistMuon take them sharded. A Muon that cannot work
here raises ValueError, with the reason, when it is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import muon as muon_optimizer
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn import Parameter
from torch.optim import Optimizer
from torchtitan.distributed.flex_shard.dist_muon import build_dist_muon
from torchtitan.distributed.flex_shard.optimizer_reshard import BucketConfig, ComputeLayout, Owned

from train.optim.benchmark.problem import Named, sharded_parameters, whole_matrices
from train.optim.muon import Muon, MuonConfig

if TYPE_CHECKING:
    from train.config.run import ModelSections


@dataclass(frozen=True)
class Contestant:
    """A Muon and the layout that it takes."""

    make: Callable[[Named], Optimizer]
    """Of the shapes of the matrices. Raises ValueError where it cannot work."""
    is_sharded: bool
    update_bytes: int
    """Of an element in the data type that it orthogonalises in."""


def contestants(sections: ModelSections) -> dict[str, Contestant]:
    """Name -> contestant, ours first."""
    options = sections.optimizer.muon
    bf16, fp32 = torch.bfloat16.itemsize, torch.float32.itemsize
    return {
        "ours-float32": Contestant(lambda shapes: ours(shapes, replace(options, ns_dtype="float32")), True, fp32),
        "ours-bfloat16": Contestant(lambda shapes: ours(shapes, replace(options, ns_dtype="bfloat16")), True, bf16),
        "muon-optimizer": Contestant(of_muon_optimizer, False, bf16),
        "torch": Contestant(lambda shapes: torch.optim.Muon(whole_matrices(shapes)), False, bf16),
        "torchtitan": Contestant(of_torchtitan, True, bf16),
    }


def ours(shapes: Named, options: MuonConfig) -> Optimizer:
    return Muon(sharded_parameters(shapes), **options.settings())


def of_muon_optimizer(shapes: Named) -> Optimizer:
    """A parameter group for each shape: the ranks gather a matrix of each, and gloo wants these of one shape."""
    by_shape: defaultdict[torch.Size, list[Parameter]] = defaultdict(list)
    for matrix in whole_matrices(shapes):
        by_shape[matrix.shape].append(matrix)
    for shape, alike in by_shape.items():
        check_padding(len(alike), shape, dist.get_world_size())
    first, *others = by_shape.values()
    optimizer = muon_optimizer.Muon(first)
    for alike in others:
        optimizer.add_param_group({"params": alike})
    return optimizer


def check_padding(count: int, shape: torch.Size, num_ranks: int) -> None:
    """It pads a group of n matrices by n mod ranks, and gathers as many as there are ranks each time."""
    rest = count % num_ranks
    if rest and 2 * rest < num_ranks:
        raise ValueError(
            f"pads its {count} matrices of {shape[0]} x {shape[1]} by {count} mod {num_ranks} = {rest}, where "
            f"{num_ranks - rest} would be needed; its last all_gather fails"
        )


def of_torchtitan(shapes: Named) -> Optimizer:
    """Whole matrices at an owner, experts where they live; each parameter a bucket of its own."""
    params = sharded_parameters(shapes)
    layouts = {name: compute_layout(param) for name, param in params}
    names, tensors = zip(*params, strict=True)
    try:
        return build_dist_muon(
            [{"params": tensors, "param_names": names}],
            compute_sharding_by_fqn=layouts,
            bucket_configs=[BucketConfig((name,)) for name in names],
            lr=1e-3,
        )
    except NotImplementedError as error:
        raise ValueError(str(error)) from error


def compute_layout(param: Tensor) -> ComputeLayout:
    """Along each axis of the mesh that does not hold copies."""
    assert isinstance(param, DTensor), type(param)
    names = param.device_mesh.mesh_dim_names
    assert names is not None  # the engine names its axes
    wanted = Owned() if param.ndim == 2 else Shard(0)
    axes = zip(names, param.placements, strict=True)
    return ComputeLayout({axis: wanted for axis, placement in axes if placement != Replicate()})
