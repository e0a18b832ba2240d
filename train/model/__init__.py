"""AFMoE from torchtitan's parts: config -> spec -> afmoe (attention | moe) -> init -> sharding; hf for exchange.

blueprint and count know a model of any size without its weights: `python -m train.model trinity_large`.
"""

import sys

if sys.argv[:1] != ["-m"]:  # that command (Python has not found its file yet) speaks before torch is loaded
    from train import cpu  # noqa: F401  (before any of torchtitan: it decides what the engine takes for its device)
