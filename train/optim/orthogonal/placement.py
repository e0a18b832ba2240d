"""Which ranks hold the rows, and which the copies, of a parameter's matrices: DTensor placements -> a grid of ranks.

FSDP2, HSDP and expert parallelism leave each parameter as one of

    2-D  [out, in]           Shard(0)                             rows over fsdp
    3-D  [experts, out, in]  Shard(0), also strided, any number   whole experts, each in one place
    3-D  [experts, out, in]  Shard(1) over efsdp, Shard(0) ep     rows of the local experts over efsdp

and Replicate over dp_replicate. So each axis of the mesh does one of three things to a parameter: it deals out whole
matrices, splits the rows of each, or holds copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a grid: its ranks by their global numbers, this rank's place among them, their process group."""

    ranks: tuple[int, ...] = (0,)
    index: int = 0
    group: dist.ProcessGroup | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def way_to(self, index: int) -> int:
        """From this rank's number to that of another."""
        return self.ranks[index] - self.ranks[self.index]


ALONE = Axis()


@dataclass(frozen=True, slots=True)
class Grid:
    """The ranks that hold the same matrices: rows split along `shards`, copied along `replicas`."""

    shards: Axis = ALONE
    replicas: Axis = ALONE

    def ranks(self) -> list[int]:
        """The global numbers of all, shard by shard."""
        return [self.rank(shard=s, replica=r) for s in range(self.shards.size) for r in range(self.replicas.size)]

    def rank(self, *, shard: int, replica: int) -> int:
        """The global number of a rank. Along an axis of a mesh the numbers go up alike, wherever the axis begins."""
        own = dist.get_rank() if dist.is_initialized() else 0
        return own + self.shards.way_to(shard) + self.replicas.way_to(replica)


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing storage."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_batch(tensor: Tensor) -> Tensor:
    """This rank's part as [matrices, rows, columns], sharing storage."""
    part = local(tensor)
    return part if part.ndim == 3 else part.unsqueeze(0)


def first_matrix(tensor: Tensor) -> int:
    """The number in the whole tensor of the first matrix of `local_batch`."""
    if tensor.ndim == 2 or not isinstance(tensor, DTensor):
        return 0
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return offset[0]


def grid_of(name: str, param: Tensor) -> Grid:
    """The grid of a 2-D or 3-D parameter. Raises ValueError for a sharding that splits columns or is unknown."""
    if param.ndim not in (2, 3):
        raise ValueError(f"Muon takes [out, in] or [experts, out, in], got {name} {tuple(param.shape)}; use AdamW")
    if not isinstance(param, DTensor):
        return Grid()
    axes: dict[str, Axis] = {}
    for mesh_axis, placement in enumerate(param.placements):
        role = _role(placement, param.ndim)
        if param.device_mesh.size(mesh_axis) == 1 or role == "experts":
            continue
        if role is None or role in axes:
            raise ValueError(
                f"Muon needs whole experts or rows (not columns) over one axis and copies over at most one; "
                f"got {name} {tuple(param.shape)} as {param.placements} on {param.device_mesh}"
            )
        axes[role] = _axis(param.device_mesh, mesh_axis)
    return Grid(shards=axes.get("rows", ALONE), replicas=axes.get("copies", ALONE))


def _role(placement: Placement, ndim: int) -> str | None:
    """What a mesh axis does to the matrices: splits their "rows", makes "copies", deals out whole "experts"."""
    if placement.is_replicate():
        return "copies"
    if placement == Shard(ndim - 2):
        return "rows"
    # Strided or not: it does not matter which expert lies where, only that each is whole.
    return "experts" if ndim == 3 and getattr(placement, "dim", None) == 0 else None


def _axis(mesh: DeviceMesh, mesh_axis: int) -> Axis:
    group, index = mesh.get_group(mesh_axis), mesh.get_local_rank(mesh_axis)
    assert group.rank() == index, (group.rank(), index)  # chunk i of the tensor lies on rank i of the group
    return Axis(tuple(dist.get_process_group_ranks(group)), index, group)
