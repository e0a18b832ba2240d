"""Does the optimizer do what it should? In some steps, two figures of one parameter of each kind.

update_rms     root mean square of the entries of an update, before learning rate and decay: about 0.2 to 1 for AdamW,
               sqrt(1 / longer side) times the rate factor for Muon. It jumps before a loss diverges.
orthogonality  residual of Muon's updates (newton_schulz.py): what its iterations leave. It grows where their data type,
               their coefficients or a gradient of low rank are at fault.

The parameters of a kind take turns. A look costs a copy of this rank's part of them, a product for each of their
matrices (a fifteenth of its Newton-Schulz) and one small all_reduce.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from train.optim.base import named
from train.optim.groups import Optimizers
from train.optim.muon import Muon
from train.optim.orthogonal.newton_schulz import residual
from train.optim.orthogonal.ownership import Matrix
from train.optim.orthogonal.placement import local

HealthFigures = dict[str, dict[str, float]]
"""update_rms, orthogonality -> kind of parameter -> figure."""


class _Parameter(NamedTuple):
    name: str
    tensor: Tensor
    group: dict[str, Any]


class _Before(NamedTuple):
    """Of a parameter, before the step."""

    tensor: Tensor
    local: Tensor
    rate: float
    decay: float

    def update(self) -> Tensor:
        """What the step has subtracted, by the rate."""
        return (self.local * (1 - self.rate * self.decay) - local(self.tensor)) / self.rate


class Health:
    """Looks at the optimizers' step from both sides. `begin` and `end` are called by every rank alike."""

    def __init__(
        self,
        optimizers: Optimizers,
        kind_of: Callable[[str], str],
        *,
        every: int,
        group: dist.ProcessGroup | None,
    ):
        """kind_of: name of a parameter -> its kind; every: in steps, 0 for never; group: of all ranks, None for one."""
        self._every = every
        self._group = group
        self._optimizers, self._kind_of = optimizers, kind_of
        for optimizer in optimizers:
            if isinstance(optimizer, Muon):
                optimizer.on_update = partial(self._look, optimizer.names())
        self._before: dict[str, _Before] = {}
        self._residuals: dict[str, list[Tensor]] = {}

    def begin(self, step: int) -> None:
        """Before the optimizers' step."""
        if not self._every or step % self._every:
            return
        turn = step // self._every
        for parameters in self._parameters().values():
            parameter = parameters[turn % len(parameters)]
            self._before[parameter.name] = _before(parameter)
            self._residuals[parameter.name] = []

    def _parameters(self) -> dict[str, list[_Parameter]]:
        """By kind. Anew each time: what loads a checkpoint replaces the groups."""
        by_kind: dict[str, list[_Parameter]] = defaultdict(list)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for name, tensor in named(group):
                    by_kind[self._kind_of(name)].append(_Parameter(name, tensor, group))
        return by_kind

    def _look(self, names: list[str], matrices: list[Matrix], u_BMN: Tensor) -> None:
        """At the updates of matrices that this rank owns."""
        for place, matrix in enumerate(matrices):
            if (name := names[matrix.param]) in self._residuals:
                self._residuals[name].append(residual(u_BMN[place]))

    @torch.no_grad()
    def end(self) -> HealthFigures:
        """After it. The same on every rank; empty where `begin` did not look."""
        if not self._before:
            return {}
        kinds = [self._kind_of(name) for name in self._before]
        sums_KF2 = torch.stack([self._sums(name) for name in self._before])
        self._before, self._residuals = {}, {}
        if self._group is not None:
            dist.all_reduce(sums_KF2, group=self._group)
        square_K, residual_K = (sums_KF2[..., 0] / sums_KF2[..., 1]).unbind(1)
        return {
            "update_rms": _figures(kinds, square_K.sqrt()),
            "orthogonality": _figures(kinds, residual_K),
        }

    def _sums(self, name: str) -> Tensor:
        """[sum, count] of squared entries and of residuals, float64 [2, 2]. Copies count along with what they copy."""
        square, found = self._before[name].update().double().square(), self._residuals[name]
        residuals = torch.stack(found).double() if found else square.new_zeros(0)
        return torch.stack([_sum_and_count(square), _sum_and_count(residuals)])


def _before(parameter: _Parameter) -> _Before:
    rate, decay = parameter.group["lr"], parameter.group["weight_decay"]
    return _Before(parameter.tensor, local(parameter.tensor).detach().clone(), rate, decay)


def _sum_and_count(values: Tensor) -> Tensor:
    return torch.stack([values.sum(), values.new_tensor(values.numel())])


def _figures(kinds: Iterable[str], values_K: Tensor) -> dict[str, float]:
    """Without those that do not exist: AdamW has no residual, and a rate of 0 no update."""
    return {kind: value for kind, value in zip(kinds, values_K.tolist(), strict=True) if math.isfinite(value)}
