"""A few parameters with the names, ranks and awkward sizes of the real model, and every way the engine shards them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

EXPERTS = "layers.1.moe.routed_experts.inner_experts"

# 5 and 1 rows leave ranks short or without rows; 6 experts do not divide by 4. FSDP splits the rows of experts evenly.
SHAPES = {
    "tok_embeddings.weight": (11, 8),
    "layers.0.attention_norm.weight": (8,),
    "layers.0.attention.q_norm.weight": (2,),
    "layers.0.attention.wo.weight": (8, 12),
    "layers.0.feed_forward.w1.weight": (5, 8),
    "layers.0.feed_forward.w2.weight": (8, 5),
    "layers.1.moe.router.gate.weight": (6, 8),
    "layers.1.moe.shared_experts.w3.weight": (1, 8),
    f"{EXPERTS}.w1_EFD": (6, 12, 8),
    f"{EXPERTS}.w2_EDF": (6, 8, 12),
    "lm_head.weight": (11, 8),
}
NUM_MATRICES = 5 + 6 + 6


@dataclass(frozen=True)
class Case:
    """One way to lay the model over 4 ranks."""

    replicas: int = 1
    ep: int = 1
    splits_rows: bool = False
    """Experts by rows, as the engine does when there are more ranks than experts."""
    exchange_mib: float = 512
    collectives: int = 0
    """all_to_all and all_gather calls of one Muon step: 2 where rows are split, 1 where copies exist, per grid."""


CASES = {
    "1x4": Case(collectives=2),
    "1x4, experts by rows": Case(splits_rows=True, collectives=2),
    "1x4, EP 2": Case(ep=2, collectives=2),
    "1x4, EP 2, experts by rows": Case(ep=2, splits_rows=True, collectives=2 + 2),
    "2x2": Case(replicas=2, collectives=3 + 1),
    "2x2, experts by rows": Case(replicas=2, splits_rows=True, collectives=3),
    "2x2, EP 2": Case(replicas=2, ep=2, collectives=3 + 1),
    # At most 48 float32 a round and rank: wo 4x12, then w1 3x8 + w2 4x5, then gate 3x8 + w3 1x8; each expert alone.
    "2x2, EP 2, many rounds": Case(replicas=2, ep=2, exchange_mib=48 * 4 / 2**20, collectives=3 * 3 + 2 * 3),
}


def values(seed: int) -> dict[str, Tensor]:
    """Normal numbers for each parameter, the same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def model_of(tensors: dict[str, Tensor]) -> nn.Module:
    """A tree of modules that holds the tensors as parameters under their names."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(leaf, nn.Parameter(tensor.clone()))
    return root


def sharded_model_of(tensors: dict[str, Tensor], case: Case) -> nn.Module:
    """The same model on 4 ranks, by the steps of torchtitan's apply_fsdp_to_decoder."""
    model = model_of(tensors)
    experts = model.get_submodule(EXPERTS)
    dense, sparse = _meshes(case.replicas, case.ep)
    if case.ep > 1:
        for name, param in list(experts.named_parameters()):
            experts.register_parameter(name, nn.Parameter(distribute_tensor(param.data, sparse["ep"], [Shard(0)])))
    placement = Shard(1) if case.splits_rows else Shard(0)
    expert_mesh = _data_parallel(sparse, "efsdp") if case.ep > 1 else _data_parallel(dense, "fsdp")
    fully_shard(experts, mesh=expert_mesh, shard_placement_fn=lambda _: placement)
    fully_shard(model, mesh=_data_parallel(dense, "fsdp"))
    return model


def shard_group(case: Case) -> dist.ProcessGroup:
    """The ranks that together hold one replica of the model."""
    dense, _ = _meshes(case.replicas, case.ep)
    return dense.get_group("fsdp")


@cache
def _meshes(replicas: int, ep: int) -> tuple[DeviceMesh, DeviceMesh]:
    """torchtitan's dense and sparse mesh. Kept, since each makes process groups."""
    shards = 4 // replicas
    return (
        init_device_mesh("cpu", (replicas, shards), mesh_dim_names=("dp_replicate", "fsdp")),
        init_device_mesh("cpu", (replicas, shards // ep, ep), mesh_dim_names=("dp_replicate", "efsdp", "ep")),
    )


def _data_parallel(mesh: DeviceMesh, shard_axis: str) -> DeviceMesh:
    """HSDP where there are replicas, else FSDP, as the engine leaves out axes of size 1."""
    return mesh["dp_replicate", shard_axis] if mesh["dp_replicate"].size() > 1 else mesh[shard_axis]


def set_gradients(model: nn.Module, gradients: nn.Module) -> None:
    """Gradients from the parameters of a second model, sharded in the same way."""
    for param, gradient in zip(model.parameters(), gradients.parameters(), strict=True):
        param.grad = gradient.detach().clone()
