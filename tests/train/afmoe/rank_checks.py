"""What each of 4 gloo ranks does for test_init.py. Starting ranks costs more than all checks, so they start once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchtitan.config import ParallelismConfig, TrainingConfig

from tests.train.afmoe import tiny_config
from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe
from train.afmoe.spec import afmoe_config
from train.blueprint.sharded import blueprint

WORLD_SIZE = 4
SEED = 5
SEQ_LEN = 8
VOCAB_SIZE = 601  # three blocks of rows, the last one short, over ranks of 151, 151, 151 and 148


@dataclass(frozen=True)
class Case:
    """One way to lay the model over 4 ranks."""

    replicas: int = 1
    expert_ranks: int = 1
    num_experts: int = 6
    """Fewer than the ranks of a replica: the engine splits their rows."""


CASES = {
    "1 x 4": Case(),
    "1 x 4, EP 2": Case(expert_ranks=2),  # three experts over two ranks: one has two of them
    "1 x 4, EP 4": Case(expert_ranks=4, num_experts=8),
    "2 x 2": Case(replicas=2),
    "2 x 2, EP 2": Case(replicas=2, expert_ranks=2),
    "1 x 4, experts by rows": Case(num_experts=2),
    "1 x 4, EP 2, experts by rows": Case(expert_ranks=2, num_experts=2),
}


@dataclass(frozen=True)
class Outcome:
    """Of one case on one rank."""

    held: dict[str, int]
    """Elements of each parameter that this rank holds."""
    wrong: list[str]
    """Parameters that are not those of one process, to the bit."""


def run_checks(rank: int, folder: str) -> None:
    """Leaves {case: Outcome} in <folder>/rank<rank>.pt."""
    torch.set_num_threads(1)
    # It advises against gathering whole tensors from two axes; only tests do that.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    torch.save({name: check(case) for name, case in CASES.items()}, Path(folder, f"rank{rank}.pt"))
    dist.destroy_process_group()


def check(case: Case) -> Outcome:
    """Fills the model on the mesh, gathers it, and compares."""
    model = sharded_model(case)
    model.to_empty(device="cpu")
    model.init_states()
    alone = afmoe_config(config_of(case), seq_len=SEQ_LEN, seed=SEED).build()
    alone.init_states()
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(whole(parameter), alone.get_parameter(name))
    ]
    return Outcome(held=held_by_this_rank(model), wrong=wrong)


def sharded_model(case: Case) -> Afmoe:
    """On the meta device, over the ranks of the process group, real or pretended."""
    parallelism = ParallelismConfig(
        data_parallel_replicate_degree=case.replicas,
        data_parallel_shard_degree=WORLD_SIZE // case.replicas,
        expert_parallel_degree=case.expert_ranks,
        spmd_backend="partial_dtensor",
    )
    return blueprint(config_of(case), training=TrainingConfig(seq_len=SEQ_LEN), parallelism=parallelism, seed=SEED)


def config_of(case: Case) -> ModelConfig:
    return tiny_config(vocab_size=VOCAB_SIZE, num_experts=case.num_experts)


def held_by_this_rank(model: Afmoe) -> dict[str, int]:
    return {name: part.to_local().numel() for name, part in model.named_parameters() if isinstance(part, DTensor)}


def whole(parameter: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor), type(parameter)
    return parameter.full_tensor()
