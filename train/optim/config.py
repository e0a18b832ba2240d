"""Settings of the `optimizer` section. No torch here: a configuration is checked before torch is loaded."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

DecayRate = Annotated[float, Field(ge=0, lt=1)]


@dataclass(kw_only=True, slots=True)
class MuonConfig:
    """Muon, for hidden matrices."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate: Nano and Mini 1e-3, Large 8e-4 (Trinity report). Each matrix takes it times
    sqrt(max(1, fan_out / fan_in))."""

    momentum: DecayRate = 0.95
    """m = momentum * m + gradient. The report is silent; 0.95 is the default of Muon and of Dion."""

    nesterov: bool = False
    """Orthogonalise gradient + momentum * m instead of m. Off, as in Dion."""

    weight_decay: NonNegativeFloat = 0.1
    """Decoupled: p *= 1 - lr * weight_decay, with the lr before the shape factor. The report is silent; 0.1 is
    what Moonlight needed to scale Muon (arXiv 2502.16982)."""

    coefficients: Literal["dion", "muon"] = "dion"
    """Newton-Schulz polynomials: dion's five different ones, or muon-optimizer's one, five times."""

    ns_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of Newton-Schulz and of what travels between ranks. float32 is for CPUs and exact comparisons."""

    exchange_mib: PositiveInt = 512
    """Size of one round of the exchange per rank, MiB. At most four rounds are in memory at once."""


@dataclass(kw_only=True, slots=True)
class AdamWConfig:
    """AdamW, for the embedding, the head and (without weight decay) the gains."""

    lr: PositiveFloat = 2e-4
    """Peak learning rate: Nano 3e-4, Mini and Large 2e-4 (Trinity report)."""

    betas: tuple[DecayRate, DecayRate] = (0.9, 0.95)
    """Decay of the first and the second moment. The report is silent; these are Dion's."""

    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""

    weight_decay: NonNegativeFloat = 0.1
    """Decoupled, of embedding and head. The report is silent."""


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """The `optimizer` section."""

    muon: MuonConfig = field(default_factory=MuonConfig)
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
