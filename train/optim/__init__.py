"""Who updates what, and how: Muon for hidden matrices, AdamW for everything else.

    gradients -> groups (regex -> optimizer)
        AdamW:  embedding, head, gains
        Muon:   momentum -> placement (which ranks hold a matrix) -> ownership (which one orthogonalises it)
                -> exchange (rows out, orthogonal rows back) -> weights

newton_schulz, ownership and layout are pure; placement reads DTensors, exchange holds the collectives; muon and groups
are the adapters to torch and torchtitan.
"""
