"""Time, counted in tokens."""
