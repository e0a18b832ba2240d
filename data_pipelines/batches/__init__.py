"""plan -> windows (input, positions, labels) -> loader: microbatches of one rank; record: plan.json of the run."""
