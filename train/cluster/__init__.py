"""What a run asks of a cluster. How it is asked for is launch/slurm's matter."""
