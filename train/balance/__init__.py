"""Load balancing: tallies of a step (train/afmoe/tally.py) -> rules -> balancer -> biases; watch, panels, alarm."""
