"""Foreign formats of weights, in both directions."""
