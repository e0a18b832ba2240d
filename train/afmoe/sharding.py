"""How an AFMoE is laid over the meshes: HSDP for everything, EP for the routed experts.

Two seams of torchtitan do it. Expert parallelism is declared here, before the model is built: each module's config says
how its parameters and buffers lie (`sharding_config`), and `model.parallelize` makes DTensors of them. HSDP then wraps
the layers from outside (parallelize.py) and asks no module. Tensor, context and pipeline parallelism are refused
(train/config/rules/mesh.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import spmd_types as spmd
from torchtitan.models.common.decoder_sharding import dense_param_placement
from torchtitan.models.common.moe_sharding import set_moe_sharding_config
from torchtitan.protocols.sharding import ShardingConfig

from train.afmoe.moe import MoE

# torchtitan asks for it; it would matter for tensor parallelism without EP.
_EXPERT_LAYOUT: dict[str, spmd.PerMeshAxisSpmdType] = {"w1_EFD": spmd.S(1), "w2_EDF": spmd.S(2), "w3_EFD": spmd.S(1)}
_MOE_BUFFERS = ("expert_bias_E", "bias_momentum_E")


def set_sharding(layers: Iterable[MoE.Config], *, enable_ep: bool) -> None:
    """Tells the configs of the MoE layers how their modules are sharded.

    Our MoE has other buffers than torchtitan's, so its own entry is replaced: they are whole on every rank.
    """
    for moe in layers:
        set_moe_sharding_config(moe, enable_ep=enable_ep, enable_sp=False, expert_param_layout=_EXPERT_LAYOUT)
        replicated = {name: dense_param_placement(tp=spmd.R) for name in _MOE_BUFFERS}
        moe.sharding_config = ShardingConfig(state_shardings=replicated)
