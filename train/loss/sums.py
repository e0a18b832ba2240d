"""The figures of a loss, whoever computes it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LossSums(NamedTuple):
    """Figures of the labelled tokens, float32: sums, and one maximum. Only `total` has a gradient."""

    total: Tensor
    """cross_entropy + weight * z."""
    cross_entropy: Tensor
    """Nats."""
    z: Tensor
    """Squared logsumexp of the logits. PaLM (arXiv 2204.02311), section 5: it keeps their common offset, which
    cross-entropy leaves free, near 0."""
    lse: Tensor
    """Logsumexp of the logits."""
    correct: Tensor
    """Tokens whose label has the largest logit, alone or together with others."""
    max_logit: Tensor
    """The largest logit; -inf where no token has a label."""
