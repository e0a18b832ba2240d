"""Who gets which optimizer. Extends torchtitan OptimizersContainer.

By default AdamW for what is looked up or read out (embedding, head) and for gains; Muon for every hidden matrix. The
router's gate is one of these: the Trinity report does not say, and the authors' public trainer (prime-rl) puts every
hidden weight of two or more dimensions there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from torch.optim import Optimizer
from torchtitan.components.checkpointer.utils import canonical_fqn
from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig
from torchtitan.tools.logging import logger

from train.optim.base import OptimizerOptions
from train.optim.config import NAMES, OPTIMIZERS, OptimizerConfig
from train.optim.manifest import manifest_text, rules_of, table
from train.optim.muon import Muon
from train.optim.orthogonal.ownership import summary

# Ends of names only: wrappers, as of activation checkpointing, put words of their own in the middle.
LOOKED_UP = r"(^|\.)(tok_embeddings|lm_head)\.weight$"
GAINS = r"norm\.weight$"
HIDDEN = r"\.(wq|wk|wv|wo|gate|w1|w2|w3)\.weight$|\.(w1_EFD|w2_EDF|w3_EFD)$"


BY_CLASS_NAME = {options.optimizer.__name__: options for options in OPTIMIZERS.values()}
"""The engine's name of an optimizer, which is that of its class -> the class of its settings."""


class Optimizers(OptimizersContainer):
    """torchtitan's container with our optimizers, a table of who got what, and errors that name the parameter."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        """torchtitan's own fields; optimizers_config fills them. Declared, as build() would make the parent without."""

    def __init__(self, config: Config, *, model_parts: list[nn.Module]) -> None:
        super().__init__(config, model_parts=model_parts)
        self.rules = rules_of(self.optimizers)
        logger.info("\n".join(["Optimizers:", *table(self.rules)]))
        for optim in self.optimizers:
            if isinstance(optim, Muon):
                for rounds in optim.plan.values():
                    logger.info(f"Muon: {summary(rounds)}")
                logger.info(f"Muon: in all, the busiest rank of the narrowest grid has {optim.balance():.2f} x mean")

    def manifest(self, *, num_ranks: int) -> str:
        """What the run directory keeps of the optimizers."""
        return manifest_text(self.rules, self.optimizers, num_ranks=num_ranks)

    def learning_rates(self) -> dict[str, float]:
        """The rate of the next step before shape factors, by metric name: lr_adamw, lr_muon."""
        return {f"lr_{NAMES[type(optim)]}": optim.param_groups[0]["lr"] for optim in self.optimizers}

    @staticmethod
    def _resolve_optimizer_factory(name: str) -> Callable[..., Optimizer]:
        return BY_CLASS_NAME[name].optimizer

    @staticmethod
    def _build_param_groups(
        model: nn.Module, param_group_configs: list[ParamGroupConfig], impl_kwargs: dict[str, Any]
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[str]]]:
        check_all_match(model, [group.pattern for group in param_group_configs])
        groups, patterns = OptimizersContainer._build_param_groups(model, param_group_configs, impl_kwargs)
        for name, of_optimizer in groups.items():
            for group in of_optimizer:
                for kernel in () if BY_CLASS_NAME[name].has_kernels else impl_kwargs:
                    del group[kernel]
        return groups, patterns


def optimizers_config(section: OptimizerConfig) -> Optimizers.Config:
    """The `optimizer` section as the engine's configuration."""
    hidden, others = section.of(section.hidden), section.of(section.others)
    return Optimizers.Config(
        param_groups=[
            _group(LOOKED_UP, others),
            _group(GAINS, others, weight_decay=0.0),  # decay would pull gains to 0, where they multiply the signal
            _group(HIDDEN, hidden),
        ],
        optimizer_factory_kwargs_by_name={
            options.optimizer.__name__: options.settings() for options in (hidden, others)
        },
    )


def _group(pattern: str, options: OptimizerOptions, **changed: float) -> ParamGroupConfig:
    return ParamGroupConfig(
        pattern=pattern,
        optimizer_name=options.optimizer.__name__,
        optimizer_kwargs=options.group_settings() | changed,
    )


def check_all_match(model: nn.Module, patterns: list[str]) -> None:
    """Raises ValueError with the names of the trainable parameters that no pattern matches."""
    strays = [
        f"{canonical_fqn(name)} {tuple(param.shape)}"
        for name, param in model.named_parameters()
        if param.requires_grad and not any(re.search(pattern, name) for pattern in patterns)
    ]
    if strays:
        raise ValueError(
            f"no optimizer for {len(strays)} trainable parameters: {', '.join(strays[:8])}; "
            f"add them to a pattern in train/optim/groups.py, or set requires_grad=False (patterns: {patterns})"
        )
