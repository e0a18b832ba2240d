"""A checked run -> options and script of its job -> sbatch; inside of the job: SLURM's variables -> a rank, and whether
the job is put into the queue once more."""
