"""The AFMoE decoder. Extends torchtitan's Decoder and TransformerBlock.

B = batch, L = sequence, D = model width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torchtitan.config import ParallelismConfig
from torchtitan.models.common.decoder import Decoder, TransformerBlock
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.utils import get_moe_model_nparams_and_flops
from torchtitan.protocols.module import Module

from train.afmoe.attention import GatedAttention, Mask, build_masks
from train.afmoe.head import Head, Loss
from train.afmoe.init import initialize_parameters_, leave_to_checkpoint_
from train.afmoe.moe import MoE
from train.afmoe.sharding import set_sharding


class AfmoeBlock(TransformerBlock):
    """One layer, each half between two norms: x + norm2(f(norm1(x))). Trinity report, section 2.2."""

    @dataclass(kw_only=True, slots=True)
    class Config(TransformerBlock.Config):
        attention: GatedAttention.Config
        moe: MoE.Config | None = None
        attention_post_norm: RMSNorm.Config
        ffn_post_norm: RMSNorm.Config

    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm = config.attention_norm.build()
        self.attention = config.attention.build()
        self.attention_post_norm = config.attention_post_norm.build()
        self.ffn_norm = config.ffn_norm.build()
        self.moe_enabled = config.moe is not None  # torchtitan's FSDP looks for it
        if config.moe is not None:
            self.moe = config.moe.build()
        else:
            assert config.feed_forward is not None
            self.feed_forward = config.feed_forward.build()
        self.ffn_post_norm = config.ffn_post_norm.build()

    def forward(self, x_BLD: Tensor, attention_masks: Mapping[str, Mask], positions: Tensor | None = None) -> Tensor:
        attended_BLD = self.attention(self.attention_norm(x_BLD), attention_masks, positions)
        x_BLD = x_BLD + self.attention_post_norm(attended_BLD)
        network = self.moe if self.moe_enabled else self.feed_forward
        return x_BLD + self.ffn_post_norm(network(self.ffn_norm(x_BLD)))


class Afmoe(Decoder):
    """Embedding, layers, norm, untied head; float32 at birth, whatever mesh it is sharded over."""

    @dataclass(kw_only=True, slots=True)
    class Config(Decoder.Config):
        layers: list[AfmoeBlock.Config]
        lm_head: Head.Config
        embedding_scale: float
        """sqrt(dim), or 1."""
        sliding_window: int
        """Tokens a local layer sees, the current one included."""
        weight_std: float
        """Standard deviation of the weights at step 0."""
        seed: int = 0
        """Seed of the weights; `debug.seed` of the run."""
        draws_weights: bool = True
        """Whether `init_states` draws them: no checkpoint has them."""

        def update_from_config(self, *, config, **kwargs) -> None:
            Decoder.Config.update_from_config(self, config=config, **kwargs)
            self.seed = config.debug.seed
            self.shard_experts(config.parallelism)

        def shard_experts(self, parallelism: ParallelismConfig) -> None:
            """Before the model is built: its MoE modules learn whether experts are spread over ranks."""
            moes = [layer.moe for layer in self.layers if layer.moe is not None]
            set_sharding(moes, enable_ep=parallelism.expert_parallel_degree > 1)

        def get_nparams_and_flops(self, model: Module, seq_len: int) -> tuple[int, int]:
            attention = self.layers[0].attention
            head_dims = 2 * cast(int, attention.head_dim)  # of queries and keys, and of values
            return get_moe_model_nparams_and_flops(self, model, attention.n_heads, head_dims, seq_len)

    config: Config

    def __init__(self, config: Config):
        super().__init__(config)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        attention_masks: Mapping[str, Mask] | None = None,
        loss: Loss | None = None,
    ) -> Any:
        """Logits [B, L, V] of int64 tokens [B, L], or what `loss` makes of the last hidden states and the head.

        positions: int64 [B, L], 0 where a document starts.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        if attention_masks is None:  # once a batch, shared by all layers
            attention_masks = self.get_attention_masks(positions)
        h_BLD = self.tok_embeddings(tokens) * self.config.embedding_scale
        for layer in self.layers.values():
            h_BLD = layer(h_BLD, attention_masks, positions)
        return self.lm_head(self.norm(h_BLD), loss)

    def get_attention_masks(self, positions: Tensor) -> Mapping[str, Mask]:
        backend = self.config.layers[0].attention.inner_attention
        return build_masks(positions, window=self.config.sliding_window, backend=backend)

    def init_states(self, *, buffer_device: torch.device | None = None) -> None:
        super().init_states(buffer_device=buffer_device)
        if self.config.draws_weights:
            initialize_parameters_(self, std=self.config.weight_std, seed=self.config.seed)
        else:
            leave_to_checkpoint_(self)


def moe_layers(model: torch.nn.Module) -> Iterator[tuple[str, MoE]]:
    """(layer id, MoE) of each layer that has experts, also under wrappers."""
    for layer_id, block in model.get_submodule("layers").named_children():
        if block.moe_enabled:
            yield layer_id, cast(MoE, block.moe)
