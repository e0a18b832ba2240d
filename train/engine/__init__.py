"""What we change of torchtitan, and why."""
