"""plan -> windows (input, positions, labels) -> loader: microbatches of one rank; held_out: those of validation;
record: plan.json of the run."""
