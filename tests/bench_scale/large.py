"""Trinity Large as rank 0 of pretended ranks has it, on the meta device: what its start takes, what its steps move."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from data_pipelines.plan.make_plan import make_plan
from data_pipelines.plan.plan import Plan, PlanSource
from data_pipelines.settings.compose import compose
from train.afmoe.decoder import Afmoe
from train.afmoe.init import initialize_parameters_
from train.blueprint.sharded import blueprint
from train.blueprint.traffic import hsdp_traffic
from train.config.check import check
from train.config.run import Run
from train.optim.groups import Optimizers, optimizers_config
from train.optim.manifest import manifest_text
from train.optim.muon import Muon
from train.optim.orthogonal.placement import local

SHARDS = 128
MIX = "{general: {web: 1}, high_quality: {web: 1, code: 1}, stem: {web: 1, code: 1, math: 1}}"
WINDOWS = {"web": 10**9, "code": 5 * 10**8, "math": 2 * 10**8}
"""Of 8,192 tokens: 14T."""
MAX_START_S = 60.0
TO_START = (
    "a rank: Python and the engine imported, s",
    "a rank: settings read and checked, s",
    "a rank: plan of the data, s",
    "a rank: model laid over the ranks, s",
    "a rank: optimizers, and who owns what, s",
)
DRAWN = "a rank: weights drawn, by one thread of a CPU, s"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Started:
    """What a rank has before its first step."""

    run: Run
    model: Afmoe
    optimizers: Optimizers

    @property
    def muon(self) -> Muon:
        (muon,) = (optimizer for optimizer in self.optimizers if isinstance(optimizer, Muon))
        return muon


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """(what it returns, CPU seconds)."""
    started = time.process_time()
    return function(), time.process_time() - started


def start(num_ranks: int) -> tuple[Started, dict[str, float]]:
    """On the ranks of the process group. Figure -> its value, in the order of a start."""
    figures = {TO_START[0]: time.process_time()}
    run, figures[TO_START[1]] = timed(lambda: read_settings(num_ranks))
    _, figures[TO_START[2]] = timed(lambda: plan_data(run))
    model, figures[TO_START[3]] = timed(
        lambda: blueprint(run.model, training=run.training, parallelism=run.parallelism)
    )
    optimizers, figures[TO_START[4]] = timed(lambda: optimizers_config(run.optimizer).build(model_parts=[model]))
    assert isinstance(optimizers, Optimizers)
    _, figures["rank 0: optimizer.json, s"] = timed(
        lambda: manifest_text(optimizers.rules, optimizers, num_ranks=num_ranks)
    )
    figures[DRAWN] = sum(local(parameter).numel() for parameter in model.parameters()) * draw_seconds()
    return Started(run, model, optimizers), figures


def read_settings(num_ranks: int) -> Run:
    replicas = f"parallelism.data_parallel_replicate_degree={num_ranks // SHARDS}"
    sources = [f"+data.sources.{name}.train=/{name}" for name in WINDOWS]
    recipe = ["experiment=trinity_large", "run.name=x", "model.attention=sdpa", replicas, f"data.mix={MIX}", *sources]
    return check(compose(recipe))


def plan_data(run: Run) -> Plan:
    timeline = run.timeline
    phases = zip((phase.name for phase in timeline.schedule.phases), timeline.phase_windows, strict=True)
    return make_plan(
        dict(phases),
        sources=[PlanSource(name=name, num_windows=n, fingerprint=name) for name, n in WINDOWS.items()],
        mix=run.data.mix,
        seed=run.seed,
        seq_len=timeline.seq_len,
        block=timeline.schedule.batch[0].sequences,
        max_epochs=run.data.max_epochs,
    )


def draw_seconds() -> float:
    """For an element, of one matrix of an expert of Large."""
    expert = torch.nn.Module()
    expert.layers = torch.nn.ModuleList()
    expert.weight = torch.nn.Parameter(torch.empty(1, 3072, 3072))
    _, seconds = timed(lambda: initialize_parameters_(expert, std=0.009, seed=0))
    return seconds / expert.weight.numel()


def step_figures(started: Started) -> dict[str, float]:
    """Of a step of one microbatch."""
    figures: dict[str, float] = {}
    for collective, moved in hsdp_traffic(started.model, num_microbatches=1).items():
        figures[f"HSDP: {collective}, calls"] = moved.calls
        figures[f"HSDP: {collective}, received, bytes"] = moved.received
    muon = started.muon
    figures["Muon: collectives"] = sum(
        (2 if grid.shards.size > 1 else 0) + (1 if grid.replicas.size > 1 else 0)
        for grid, rounds in muon.plan.items()
        for _ in rounds
    )
    figures["Muon: received, bytes"] = sum(muon.bytes_received().values())
    figures["Muon: busiest of the ranks around, / mean"] = muon.balance()
    params = [param for group in muon.param_groups for param in group["params"]]
    figures["Muon: momentum that rank 0 keeps, bytes"] = sum(
        4 * matrix.numel() for param in params for matrix in muon.state[param]["momentum_buffer"].matrices.values()
    )
    figures["Muon: momentum if replicas kept their own, bytes"] = sum(4 * local(param).numel() for param in params)
    return figures
