"""How many parameters a model has, of which kind, and what a rank holds of them. Reads shapes only, so meta tensors do.

Counted are the tensors of the published format: every parameter, and the selection biases of the experts, which
the balancing rule updates instead of an optimizer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchtitan.components.checkpointer.utils import canonical_fqn
from torchtitan.distributed.utils import set_spmd_backend

from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe, moe_layers
from train.afmoe.spec import afmoe_config
from train.blueprint.kinds import KINDS, ROUTED, first_match, kind_of
from train.optim.config import OptimizerConfig
from train.optim.groups import BY_CLASS_NAME, check_all_match, optimizers_config
from train.optim.orthogonal.placement import local

BALANCE = "balance"
"""The balancing rule, where others have an optimizer."""

STATES = {name: options.num_states for name, options in BY_CLASS_NAME.items()} | {BALANCE: 1}
"""Values that are kept for each parameter: AdamW's two moments, the momentum of Muon and of SMEBU."""


OWNED = {name for name, options in BY_CLASS_NAME.items() if options.has_owners}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some tensors of a model, all of one shape, and what a rank holds of them."""

    kind: str
    shape: tuple[int, ...]
    """Of each tensor, whole."""
    updater: str
    """Optimizer, or BALANCE."""
    names: tuple[str, ...]
    """The last word of their names: `wq` of layers.3.attention.qkv_linear.wq.weight."""
    num_tensors: int
    total: int
    """Parameters."""
    active: int
    """Parameters that a token's way through the model uses."""
    on_rank: int
    """Parameters that this rank holds."""
    copies: int
    """Ranks that hold the same."""

    @property
    def gradients_on_rank(self) -> int:
        return 0 if self.updater == BALANCE else self.on_rank

    @property
    def states_on_rank(self) -> int:
        """Where they have owners, in the mean over the ranks that hold the same."""
        return STATES[self.updater] * self.on_rank // (self.copies if self.updater in OWNED else 1)


def count(model: Afmoe, section: OptimizerConfig) -> list[Part]:
    """The parts of `model`, plain or sharded: one for each kind, shape and updater, in the order of the kinds above.

    section: the `optimizer` section. Raises ValueError with the names of parameters that no optimizer takes.
    """
    patterns = {group.pattern: group.optimizer_name for group in optimizers_config(section).param_groups}
    check_all_match(model, list(patterns))
    patterns["expert_bias_E$"] = BALANCE
    alike: defaultdict[tuple[str, tuple[int, ...], str], dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in _counted(model):
        alike[kind_of(name), tuple(tensor.shape), first_match(name, patterns)][name] = tensor
    moe = next((moe for _, moe in moe_layers(model)), None)
    visited = {} if moe is None else {ROUTED: Fraction(moe.top_k, moe.num_experts)}
    parts = [_part(*key, tensors=tensors, visited=visited.get(key[0], Fraction(1))) for key, tensors in alike.items()]
    return sorted(parts, key=lambda part: list(KINDS.values()).index(part.kind))


def count_whole(model: ModelConfig, section: OptimizerConfig) -> list[Part]:
    """`count` of a model that is not sharded: one rank holds all of it."""
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        return count(afmoe_config(model, seq_len=1).build(), section)


def _counted(model: Afmoe) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield canonical_fqn(name), parameter
    for layer_id, moe in moe_layers(model):
        yield f"layers.{layer_id}.moe.expert_bias_E", moe.expert_bias_E


def _part(kind: str, shape: tuple[int, ...], updater: str, *, tensors: dict[str, Tensor], visited: Fraction) -> Part:
    total = len(tensors) * prod(shape)
    return Part(
        kind=kind,
        shape=shape,
        updater=updater,
        names=tuple(dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in tensors)),
        num_tensors=len(tensors),
        total=total,
        active=int(total * visited),
        on_rank=sum(local(tensor).numel() for tensor in tensors.values()),
        copies=_copies(next(iter(tensors.values()))),
    )


def _copies(tensor: Tensor) -> int:
    if not isinstance(tensor, DTensor):
        return 1
    axes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return prod(size for size, placement in axes if placement.is_replicate())
