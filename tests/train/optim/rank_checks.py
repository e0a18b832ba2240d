"""What each of 4 gloo ranks does for test_sharded.py. Starting ranks costs more than all checks, so they start once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from tests.train.optim.small_model import (
    CASES,
    Case,
    model_of,
    set_gradients,
    shard_group,
    sharded_model_of,
    values,
)
from train.blueprint.kinds import kind_of
from train.optim.adamw import AdamWConfig
from train.optim.clip import clip_grad_norm_
from train.optim.config import OptimizerConfig
from train.optim.groups import Optimizers, optimizers_config
from train.optim.health import Health, HealthFigures
from train.optim.muon import Muon, MuonConfig, Orthogonalize

WORLD_SIZE = 4
LR = 0.02
SECTION = OptimizerConfig(muon=MuonConfig(lr=LR, ns_dtype="float32"), adamw=AdamWConfig(lr=LR))
SECTION_BF16 = OptimizerConfig(muon=MuonConfig(lr=LR, ns_dtype="bfloat16"), adamw=AdamWConfig(lr=LR))


@dataclass
class Outcome:
    """Of one case, the worst over ranks."""

    error: float
    """Largest difference of a weight from the 1-rank run, after two steps."""
    num_orthogonalized: int
    """Matrices given to Newton-Schulz in one step, summed over the world."""
    num_momenta: int
    """Matrices of momentum that are kept, summed over the world."""
    health: tuple[HealthFigures, HealthFigures]
    """Of its second step, on the first and on the last rank."""
    are_owners_known: bool
    """Whether every rank says of every other what that owns."""
    num_collectives: int
    """Collectives of one Muon step."""


@dataclass
class Clipping:
    """Of one case. Norms are those of the gradients before they are clipped."""

    expected: float
    """Norm of all gradients on one rank, summed in float64."""
    norms: tuple[float, float]
    """Smallest and largest over ranks."""
    norm_of_the_world: float
    """A mistake: the sum over all ranks counts each replica again."""
    error: float
    """Of clipping to half of the norm: largest difference of a gradient from half of it, the worst over ranks."""
    change: float
    """The same for a limit just above the norm, from the gradient itself."""


def run_checks(rank: int, folder: str) -> None:
    """Rank 0 leaves {check: Outcome, Clipping, number or message} in <folder>/outcomes.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    outcomes: dict[str, Any] = {name: check_case(case) for name, case in CASES.items()}
    outcomes |= {f"clip {name}": check_clipping(case) for name, case in CASES.items()}
    outcomes["health of 1 rank"] = one_rank(SECTION, steps=2)[1]
    outcomes["bfloat16"] = check_bfloat16()
    outcomes["first state_dict"] = check_first_state_dict()
    outcomes["columns"] = check_columns_are_refused()
    outcomes["other mesh"] = check_resume_on_another_mesh(f"{folder}/checkpoint")
    if rank == 0:
        torch.save(outcomes, Path(folder, "outcomes.pt"))
    dist.destroy_process_group()


def check_case(case: Case) -> Outcome:
    model = sharded_model_of(values(seed=0), case)
    optimizers = build(model, SECTION, exchange_mib=case.exchange_mib)
    muon = muon_of(optimizers)
    counter = Counter(muon.orthogonalize)
    muon.orthogonalize = counter
    step(optimizers, model, case, seed=1)
    set_gradients(model, sharded_model_of(values(seed=2), case))
    counter.count = 0
    health = Health(optimizers, kind_of, every=1, group=dist.group.WORLD)
    health.begin(step=2)
    with CommDebugMode() as collectives:
        optimizers.step()
    figures: list[Any] = [None] * WORLD_SIZE
    dist.all_gather_object(figures, health.end())
    return Outcome(
        error=error_against(one_rank_weights(SECTION, steps=2), model.parameters(), case),
        num_orthogonalized=int(over_ranks(counter.count, dist.ReduceOp.SUM)),
        num_momenta=int(over_ranks(num_momenta(muon), dist.ReduceOp.SUM)),
        health=(figures[0], figures[-1]),
        are_owners_known=are_owners_known(muon),
        num_collectives=int(over_ranks(collectives.get_total_counts(), dist.ReduceOp.MAX)),
    )


def check_clipping(case: Case) -> Clipping:
    gradients = values(seed=1)
    expected = float(torch.cat([gradient.flatten() for gradient in gradients.values()]).double().norm())
    model = sharded_model_of(values(seed=0), case)

    def clip(max_norm: float, group: dist.ProcessGroup | None) -> float:
        set_gradients(model, sharded_model_of(gradients, case))
        return float(clip_grad_norm_(model.parameters(), max_norm=max_norm, shard_group=group))

    norm_of_the_world = clip(expected, dist.group.WORLD)
    clip(1.01 * expected, shard_group(case))
    change = error_against(gradients, gradients_of(model), case)
    norm = clip(expected / 2, shard_group(case))
    halves = {name: gradient / 2 for name, gradient in gradients.items()}
    return Clipping(
        expected=expected,
        norms=(over_ranks(norm, dist.ReduceOp.MIN), over_ranks(norm, dist.ReduceOp.MAX)),
        norm_of_the_world=norm_of_the_world,
        error=error_against(halves, gradients_of(model), case),
        change=change,
    )


def check_bfloat16() -> float:
    case = CASES["2x2, EP 2"]
    model = sharded_model_of(values(seed=0), case)
    step(build(model, SECTION_BF16), model, case, seed=1)
    return error_against(one_rank_weights(SECTION_BF16, steps=1), model.parameters(), case)


def check_first_state_dict() -> float:
    """The engine makes the state by a step with zero gradients and zero learning rate."""
    case = CASES["2x2, EP 2"]
    model = sharded_model_of(values(seed=0), case)
    build(model, SECTION).state_dict()
    return error_against(values(seed=0), model.parameters(), case)


def check_columns_are_refused() -> str:
    """The message for a matrix whose columns are split, as tensor parallelism would."""
    mesh = init_device_mesh("cpu", (WORLD_SIZE,), mesh_dim_names=("tp",))
    try:
        Muon([("wo", nn.Parameter(distribute_tensor(torch.ones(4, 8), mesh, [Shard(1)])))])
    except ValueError as error:
        return str(error)
    return "accepted"


def check_resume_on_another_mesh(folder: str) -> float:
    """One step on 2 x 2 with EP 2, a checkpoint, and the second step on 1 x 4 with experts by rows."""
    before, after = CASES["2x2, EP 2"], CASES["1x4, EP 2, experts by rows"]
    model = sharded_model_of(values(seed=0), before)
    optimizers = build(model, SECTION)
    step(optimizers, model, before, seed=1)
    save({"model": model.state_dict(), "optimizer": optimizers.state_dict()}, checkpoint_id=folder)

    model = sharded_model_of(values(seed=9), after)
    optimizers = build(model, SECTION)
    state = {"model": model.state_dict(), "optimizer": optimizers.state_dict()}
    load(state, checkpoint_id=folder)
    model.load_state_dict(state["model"])
    optimizers.load_state_dict(state["optimizer"])
    step(optimizers, model, after, seed=2)
    return error_against(one_rank_weights(SECTION, steps=2), model.parameters(), after)


def build(model: nn.Module, section: OptimizerConfig, **muon_kwargs: float) -> Optimizers:
    config = optimizers_config(section)
    config.optimizer_factory_kwargs_by_name["Muon"] |= muon_kwargs
    return config.build(model_parts=[model])


def step(optimizers: Optimizers, model: nn.Module, case: Case, *, seed: int) -> None:
    set_gradients(model, sharded_model_of(values(seed), case))
    optimizers.step()


def one_rank_weights(section: OptimizerConfig, *, steps: int) -> dict[str, Tensor]:
    """The same training on plain tensors, without any collective."""
    return one_rank(section, steps=steps)[0]


def one_rank(section: OptimizerConfig, *, steps: int) -> tuple[dict[str, Tensor], HealthFigures]:
    """(weights after these steps, health of the last)."""
    model = model_of(values(seed=0))
    optimizers = build(model, section)
    health = Health(optimizers, kind_of, every=1, group=None)
    figures: HealthFigures = {}
    for step in range(1, steps + 1):
        set_gradients(model, model_of(values(seed=step)))
        health.begin(step)
        optimizers.step()
        figures = health.end()
    return {name: param.detach() for name, param in model.named_parameters()}, figures


def error_against(expected: dict[str, Tensor], tensors: Iterable[Tensor], case: Case) -> float:
    """Every rank compares the part that it holds, copies included."""
    pairs = zip(tensors, sharded_model_of(expected, case).parameters(), strict=True)
    differences = [(local(got) - local(want)).abs().flatten() for got, want in pairs]
    return over_ranks(float(torch.cat(differences).max()), dist.ReduceOp.MAX)


def gradients_of(model: nn.Module) -> list[Tensor]:
    return [param.grad for param in model.parameters() if param.grad is not None]


def local(param: Tensor) -> Tensor:
    assert isinstance(param, DTensor), type(param)
    return param.to_local().detach()


def over_ranks(value: float, operation: dist.ReduceOp.RedOpType) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total, operation)
    return total.item()


def num_momenta(muon: Muon) -> int:
    return sum(len(state["momentum_buffer"].matrices) for state in muon.state.values())


def are_owners_known(muon: Muon) -> bool:
    """Each rank writes down the owners of all matrices that its grids hold: they keep the momentum, and nobody else."""
    names = [name for group in muon.param_groups for name in group["param_names"]]
    params = [param for group in muon.param_groups for param in group["params"]]
    momenta = {name: muon.state[param]["momentum_buffer"] for name, param in zip(names, params, strict=True)}
    kept = {(name, m.first + index, dist.get_rank()) for name, m in momenta.items() for index in m.matrices}
    said = {
        (name, momenta[name].first + index, owner)
        for name, owners in muon.owners().items()
        for index, owner in enumerate(owners)
    }
    of_all: list[Any] = [None] * WORLD_SIZE
    dist.all_gather_object(of_all, (kept, said))
    return set().union(*(kept for kept, _ in of_all)) == set().union(*(said for _, said in of_all))


def muon_of(optimizers: Optimizers) -> Muon:
    (muon,) = [optim for optim in optimizers if isinstance(optim, Muon)]
    return muon


class Counter:
    """Counts the matrices that pass through an orthogonalisation."""

    def __init__(self, orthogonalize: Orthogonalize) -> None:
        self.orthogonalize = orthogonalize
        self.count = 0

    def __call__(self, x_BMN: Tensor) -> Tensor:
        self.count += len(x_BMN)
        return self.orthogonalize(x_BMN)
