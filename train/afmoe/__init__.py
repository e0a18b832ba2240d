"""AFMoE from torchtitan's parts: config -> spec -> decoder (attention | moe) -> init -> sharding -> parallelize.

moe is made of router, tally and torchtitan's experts.
"""
