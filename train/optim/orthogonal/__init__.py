"""The orthogonal factor of each matrix of a sharded model, found once in the world.

    gradients -> placement (which ranks hold a matrix) -> ownership (which one orthogonalises it)
        -> exchange (rows to the owner, momentum and newton_schulz there, orthogonal rows back to every rank)

newton_schulz, ownership and layout are pure; placement reads DTensors, exchange holds the collectives, owned is what an
owner keeps.
"""
