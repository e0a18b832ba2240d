"""configs/model: the published numbers, and small models that have every part of them."""

from __future__ import annotations

import pytest

from data_pipelines.settings.compose import compose
from tests.train.afmoe import family_config
from train.config.check import check
from train.model import model_names

# Trinity report, table 1, and the published configs: layers, of them dense, width, heads, of them for keys and values,
# head width, dense width, experts, of them for a token, expert width, window, route_scale.
PUBLISHED = {
    "trinity_nano": (56, 2, 1024, 8, 2, 128, 3072, 128, 8, 256, 2048, 2.826),
    "trinity_mini": (32, 2, 2048, 32, 4, 128, 6144, 128, 8, 1024, 2048, 2.826),
    "trinity_large": (60, 6, 3072, 48, 8, 128, 12288, 256, 4, 3072, 4096, 2.448),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_family_has_the_published_numbers(name: str) -> None:
    c = family_config(name)
    attention = (c.num_heads, c.num_kv_heads, c.head_dim)
    experts = (c.num_experts, c.top_k, c.expert_hidden_dim)
    numbers = (c.num_layers, c.num_dense_layers, c.dim, *attention, c.dense_hidden_dim, *experts)
    assert (*numbers, c.sliding_window, c.route_scale) == PUBLISHED[name]
    assert (c.vocab_size, c.num_shared_experts, c.global_every) == (200_192, 1, 4)
    assert (c.rope_theta, c.norm_eps, c.route_norm, c.scale_embedding) == (10_000.0, 1e-5, True, True)
    assert round(c.weight_std, 3) == {1024: 0.016, 2048: 0.011, 3072: 0.009}[c.dim]


@pytest.mark.parametrize("name", ["trinity_smoke", "trinity_tiny"])
def test_the_small_models_have_every_part_of_the_family(name: str) -> None:
    c = family_config(name)
    kinds = {(c.is_dense(layer_id), c.is_global(layer_id)) for layer_id in range(c.num_layers)}
    assert kinds == {(True, False), (False, False), (False, True)}  # Nano's; its first global layer has experts too
    assert c.num_heads * c.head_dim != c.dim
    assert c.num_kv_heads < c.num_heads
    assert c.num_shared_experts >= 1
    assert 1 < c.top_k < c.num_experts
    assert c.num_experts % 8 == 0  # expert parallelism over the GPUs of a node


@pytest.mark.parametrize("name", model_names())
def test_every_model_is_chosen_by_its_name(name: str) -> None:
    assert check(compose([f"model={name}", "run.name=any"])).model.name == name
