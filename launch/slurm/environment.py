"""SLURM's variables of a task -> those of a rank, as torchrun would set them."""

from __future__ import annotations

from collections.abc import Mapping

from data_pipelines.base.errors import ConfigError

FROM_SLURM = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE",
    "GROUP_RANK": "SLURM_NODEID",
}
"""Variable of a rank -> the one of its task."""
FROM_SCRIPT = ("MASTER_ADDR", "MASTER_PORT", "RUN_DIR")
"""Which the batch script sets: only outside of a container can SLURM be asked for its nodes."""


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that make this task a rank. Raises ConfigError where it is none: nothing is guessed, since ranks
    that each believe to be alone would train side by side."""
    missing = [name for name in (*FROM_SLURM.values(), *FROM_SCRIPT) if not environment.get(name)]
    if missing:
        raise ConfigError(
            [
                f"{', '.join(missing)}: not set; launch.rank is started by srun from a batch script, which "
                "python -m launch.submit makes, or launch/train.sbatch"
            ]
        )
    return {name: environment[source] for name, source in FROM_SLURM.items()}
