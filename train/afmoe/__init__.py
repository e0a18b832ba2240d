"""AFMoE from torchtitan's parts: config -> spec -> decoder (attention | moe) -> init -> sharding -> parallelize."""
