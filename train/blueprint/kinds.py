"""What a parameter is for, by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping

ROUTED = "routed experts"
KINDS = {  # pattern of a name -> kind; the first that matches
    r"^tok_embeddings\.": "embedding",
    r"\.attention\.(qkv_linear|gate|wo)\.": "attention",
    r"norm\.weight$": "norms",
    r"\.feed_forward\.": "dense feed-forward",
    r"\.moe\.(router\.|expert_bias_E$)": "router",
    r"\.shared_experts\.": "shared experts",
    r"\.routed_experts\.": ROUTED,
    r"^lm_head\.": "head",
}


def kind_of(name: str) -> str:
    """The kind of a parameter, or of the selection bias of an MoE layer."""
    return first_match(name, KINDS)


def first_match(name: str, patterns: Mapping[str, str]) -> str:
    """The meaning of the first pattern that is found in `name`. Raises StopIteration where none is."""
    return next(meaning for pattern, meaning in patterns.items() if re.search(pattern, name))
