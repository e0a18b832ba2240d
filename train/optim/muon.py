"""Muon: steps along the orthogonalised momentum. Each matrix is orthogonalised once in the whole world.

    m <- momentum m + g
    p <- (1 - lr weight_decay) p - lr sqrt(max(1, fan_out / fan_in)) orthogonal(m)

for each matrix of the last two dimensions, [fan_out, fan_in]. Source: microsoft/dion, dion/muon.py (this form of
momentum, decay with the unadjusted lr); the shape factor is the Trinity report's.

The cost of a step. Newton-Schulz takes 5 (4 m^2 n + 2 m^3) flops, m <= n, and ownership divides that by all ranks
that hold the matrix. Trinity Large: 41,472 expert matrices of 3072 x 3072 at 8.7e11, 3.6e16 flops in the world; on
2,048 ranks 1.8e13 each (about 25 ms at 700 TFLOP/s) where 16 replicas would each repeat 2.8e14 (0.4 s); the model
itself takes 5e15 a step. The price: 5.7 GB of bfloat16 received in the all_gather per rank and step. The full
account of bytes and memory is in exchange.py.

Extends torch.optim.Optimizer; the state is a float32 `momentum_buffer` a parameter, which has the matrices that this
rank owns.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: one kernel for many tensors, as torch.optim itself calls it.
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from train.optim.base import DecayRate, OptimizerOptions, named
from train.optim.orthogonal.exchange import exchange, phase, run_interleaved
from train.optim.orthogonal.newton_schulz import orthogonalize
from train.optim.orthogonal.owned import OwnedMatrices
from train.optim.orthogonal.ownership import Matrix, Round, newton_schulz_flops, plan_rounds, translates
from train.optim.orthogonal.placement import Grid, first_matrix, grid_of, local_batch
from train.optim.orthogonal.traffic import bytes_received

Orthogonalize = Callable[[Tensor], Tensor]


def shape_factor(fan_out: int, fan_in: int) -> float:
    """What multiplies the learning rate of a matrix. Trinity report, optimizer."""
    return math.sqrt(max(1.0, fan_out / fan_in))


class Muon(Optimizer):
    """Muon over float32 parameters, [out, in] or [experts, out, in], plain or DTensor.

    Every parameter needs a gradient at every step, as FSDP gives it: the plan of who orthogonalises what is fixed, and
    a rank that left out a matrix would keep the others waiting. `step` raises ValueError with the name of a parameter
    that has no gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        coefficients: str = "dion",
        ns_dtype: str = "bfloat16",
        exchange_mib: float = 512,
    ) -> None:
        """The arguments are those of MuonConfig. `lr` and `weight_decay` are per group, the others per optimizer."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.momentum, self.nesterov = momentum, nesterov
        self.dtype = getattr(torch, ns_dtype)
        self.orthogonalize: Orthogonalize = partial(orthogonalize, coefficients=coefficients, dtype=self.dtype)
        self.on_update: Callable[[list[Matrix], Tensor], None] = lambda matrices, u_BMN: None
        """Called with the updates of matrices that this rank owns, before they travel."""
        self.max_elements = int(exchange_mib * 2**20) // self.dtype.itemsize
        self.plan = self._plan()
        self._make_state()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """For the constructor of torch.optim.Optimizer only. Raises ValueError later: by then the plan is made."""
        if hasattr(self, "plan"):
            raise ValueError("Muon plans once who orthogonalises what; give it all parameters when it is made")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        assert closure is None, "Muon takes no closure"
        gradients = [gradient for group in self.param_groups for gradient in _gradients(group)]
        for group in self.param_groups:
            self._decay_(group)
        update, apply_ = self._ascent(), self._descent()
        run_interleaved(
            exchange(round_, grid, gradients=gradients, update=update, apply_=apply_, dtype=self.dtype)
            for grid, rounds in self.plan.items()
            for round_ in rounds
        )

    def plan_of(
        self, grid: Grid, matrices: Sequence[Matrix], *, work: Sequence[int], teams: Sequence[int]
    ) -> tuple[Round, ...]:
        """Of one grid; work and teams as in plan_rounds, in the order of `Grid.ranks`."""
        return plan_rounds(
            matrices,
            num_shards=grid.shards.size,
            num_replicas=grid.replicas.size,
            max_elements=self.max_elements,
            work=work,
            teams=teams,
        )

    def _plan(self) -> dict[Grid, tuple[Round, ...]]:
        """The wider grid first: the ranks of a narrower one within know its plan, and what it gives them to do."""
        by_grid = self._matrices_by_grid()
        widest_first = sorted(by_grid, key=lambda grid: -len(grid.ranks()))
        plans: dict[Grid, tuple[Round, ...]] = {}
        for grid in widest_first:
            ranks, work = grid.ranks(), Counter[int]()
            for wider, rounds in plans.items():
                if set(wider.ranks()) >= set(ranks):
                    work += flops_by_rank(wider, rounds)
            narrower = (other.ranks() for other in widest_first if set(other.ranks()) < set(ranks))
            teams = translates(ranks, next(narrower, ranks[:1]))
            plans[grid] = self.plan_of(grid, by_grid[grid], work=[work[rank] for rank in ranks], teams=teams)
        return {grid: plans[grid] for grid in by_grid}

    def balance(self) -> float:
        """Flops of the busiest rank over their mean, all matrices together, among the ranks whose work is known here:
        those of the narrowest grid."""
        work = sum((flops_by_rank(grid, rounds) for grid, rounds in self.plan.items()), Counter[int]())
        known = [work[rank] for rank in min((grid.ranks() for grid in self.plan), key=len)]
        return max(known) * len(known) / sum(known)

    def owners(self) -> dict[str, list[int]]:
        """Name of a parameter -> the rank that owns each of its matrices which this rank's grid holds."""
        names = self.names()
        owned = {name: {} for name in names}
        for _, owner, matrix in self._owned():
            owned[names[matrix.param]][matrix.index] = owner
        return {name: [ranks[index] for index in sorted(ranks)] for name, ranks in owned.items()}

    def bytes_received(self) -> dict[str, int]:
        """Name of a parameter -> what this rank receives of it in a step, in the mean over its grid."""
        names = self.names()
        received = dict.fromkeys(names, 0.0)
        for grid, _, matrix in self._owned():
            received[names[matrix.param]] += bytes_received(
                matrix.rows * matrix.cols,
                num_shards=grid.shards.size,
                num_replicas=grid.replicas.size,
                update_bytes=self.dtype.itemsize,
            )
        return {name: round(size) for name, size in received.items()}

    def _owned(self) -> Iterator[tuple[Grid, int, Matrix]]:
        """(its grid, its owner's global number, a matrix), for all that this rank's grids hold."""
        for grid, rounds in self.plan.items():
            for round_ in rounds:
                for shard, replica, matrix in round_.each():
                    yield grid, grid.rank(shard=shard, replica=replica), matrix

    def _make_state(self) -> None:
        """Zero momentum for what this rank owns. At once, since torchtitan has an optimizer without state take a step
        before it saves or loads: a rank that owns nothing would take it alone."""
        indices: dict[int, list[int]] = {}
        for grid, rounds in self.plan.items():
            for round_ in rounds:
                for matrix in round_.of_owner(shard=grid.shards.index, replica=grid.replicas.index):
                    indices.setdefault(matrix.param, []).append(matrix.index)
        for place, param in enumerate(self._params()):
            owned = sorted(indices.get(place, []))
            self.state[param]["momentum_buffer"] = OwnedMatrices.zeros(param, owned, first=first_matrix(param))

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def names(self) -> list[str]:
        """Of the parameters, in the order in which a Matrix counts them."""
        return [name for group in self.param_groups for name, _ in named(group)]

    def _ascent(self) -> Callable[[list[Matrix], Tensor], Tensor]:
        """The function that makes gradients of matrices that this rank owns into orthogonal updates."""
        momenta = [self.state[param]["momentum_buffer"].matrices for param in self._params()]

        def ascend_(matrices: list[Matrix], g_BMN: Tensor) -> Tensor:
            gradients, m_MNs = list(g_BMN), [momenta[matrix.param][matrix.index] for matrix in matrices]
            with phase("momentum"):
                torch._foreach_mul_(m_MNs, self.momentum)
                torch._foreach_add_(m_MNs, gradients)
                if self.nesterov:
                    torch._foreach_add_(gradients, m_MNs, alpha=self.momentum)
                else:
                    torch._foreach_copy_(gradients, m_MNs)
            with phase("Newton-Schulz"):
                u_BMN = self.orthogonalize(g_BMN)
            self.on_update(matrices, u_BMN)
            return u_BMN

        return ascend_

    def _decay_(self, group: dict[str, Any]) -> None:
        with phase("decay"):
            torch._foreach_mul_(list(map(local_batch, group["params"])), 1 - group["lr"] * group["weight_decay"])

    def _descent(self) -> Callable[[Matrix, Tensor], None]:
        """The function that subtracts a rank's rows of an orthogonal matrix from its weights."""
        weights = [(local_batch(p), group["lr"]) for group in self.param_groups for p in group["params"]]

        def descend_(matrix: Matrix, u_MN: Tensor) -> None:
            weight_EMN, lr = weights[matrix.param]
            weight_EMN[matrix.index].add_(u_MN, alpha=-lr * shape_factor(matrix.rows, matrix.cols))

        return descend_

    def _matrices_by_grid(self) -> dict[Grid, list[Matrix]]:
        """All matrices of this rank's grids. Its own shard of one may have no rows."""
        by_grid: dict[Grid, list[Matrix]] = {}
        parameters = [pair for group in self.param_groups for pair in named(group)]
        for i, (name, param) in enumerate(parameters):
            grid = grid_of(name, param)
            _check_is_float32(name, param)
            rows, cols = param.shape[-2:]
            by_grid.setdefault(grid, []).extend(Matrix(i, e, rows, cols) for e in range(len(local_batch(param))))
        return {grid: matrices for grid, matrices in by_grid.items() if matrices}


def flops_by_rank(grid: Grid, rounds: Sequence[Round]) -> Counter[int]:
    """What the owners of a grid have to do in a step, by their global numbers."""
    flops = Counter[int]()
    for round_ in rounds:
        for shard, replica, matrix in round_.each():
            flops[grid.rank(shard=shard, replica=replica)] += newton_schulz_flops(matrix.rows, matrix.cols)
    return flops


def _gradients(group: dict[str, Any]) -> list[Tensor]:
    """This rank's part of each gradient. Raises ValueError where there is none."""
    for name, param in named(group):
        if param.grad is None:
            raise ValueError(f"{name} has no gradient; Muon needs one at every step, or requires_grad=False")
    return [local_batch(param.grad) for param in group["params"]]


def _check_is_float32(name: str, param: Tensor) -> None:
    # bfloat16 weights would round most steps away, and torch.optim casts loaded state to the dtype of the weight.
    if param.dtype != torch.float32:
        raise ValueError(f"Muon needs float32 weights, got {name} in {param.dtype}; set training.dtype: float32")


@dataclass(kw_only=True, slots=True)
class MuonConfig(OptimizerOptions):
    """The `optimizer.muon` section."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate: Nano and Mini 1e-3, Large 8e-4 (Trinity report). Each matrix takes it times
    sqrt(max(1, fan_out / fan_in))."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled: p *= 1 - lr * weight_decay, with the lr before the shape factor. The report is silent; 0.1 is
    what Moonlight needed to scale Muon (arXiv 2502.16982)."""
    momentum: DecayRate = 0.95
    """m = momentum * m + gradient. The report is silent; 0.95 is the default of Muon and of Dion."""
    nesterov: bool = False
    """Orthogonalise gradient + momentum * m instead of m. Off, as in Dion."""
    coefficients: Literal["dion", "muon"] = "dion"
    """Newton-Schulz polynomials: dion's five different ones, or muon-optimizer's one, five times."""
    ns_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of Newton-Schulz and of the updates that travel. float32 is for CPUs and exact comparisons."""
    exchange_mib: PositiveInt = 512
    """Size of one round of the exchange per rank, MiB. At most four rounds are in memory at once."""

    optimizer: ClassVar[type[Optimizer]] = Muon
    num_states: ClassVar[int] = 1
    has_owners: ClassVar[bool] = True
    of_the_whole: ClassVar[tuple[str, ...]] = ("momentum", "nesterov", "coefficients", "ns_dtype", "exchange_mib")
    takes_vectors: ClassVar[bool] = False

    @classmethod
    def num_matrices(cls, shape: Sequence[int]) -> int:
        return shape[0] if len(shape) == 3 else 1

    @classmethod
    def rate_factor(cls, shape: Sequence[int]) -> float:
        return shape_factor(*shape[-2:])
