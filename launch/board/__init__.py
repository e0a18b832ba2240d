"""What people look at: the state of runs, and their dashboard in W&B."""
