"""AFMoE from torchtitan's parts: config -> spec -> afmoe (attention | moe) -> init -> sharding; hf for exchange."""

from train import cpu  # noqa: F401  (before any of torchtitan: it decides what the engine takes for its device)
