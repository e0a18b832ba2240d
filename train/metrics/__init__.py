"""The row of a step, and where it goes."""
