"""How many bytes of a matrix a rank has to receive in a step (pure). exchange.py derives the formula."""

from __future__ import annotations

GRADIENT_BYTES = 4
"""float32."""


def bytes_received(elements: int, *, num_shards: int, num_replicas: int, update_bytes: int) -> float:
    """By a rank of the grid that holds a matrix of so many elements, in the mean over its ranks; without padding.

    update_bytes: of an element of an update.
    """
    at_shards = elements / num_shards
    through_owners = (GRADIENT_BYTES + update_bytes) * at_shards / num_replicas * (num_shards - 1) / num_shards
    return through_owners + update_bytes * at_shards * (num_replicas - 1) / num_replicas
