"""Who updates what, and how: Muon for hidden matrices, AdamW for everything else.

    gradients -> clip -> groups (pattern of names -> optimizer)
        adamw:  embedding, head, gains
        muon:   momentum -> orthogonal/ (whole matrices at their owners, and back) -> weights

config names the optimizers; each has its settings and its class in a file of its own, on top of base. groups is the
adapter to torchtitan.
"""
