"""The `cluster` section: which nodes of a SLURM cluster a run asks for, and what a rank finds there.

None of it changes what is computed: a run may go on on another cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

_WORD = re.compile(r"[\w.,:@+/&|*()\[\]=%-]+")
"""What may stand in an #SBATCH line, where nothing is quoted: SLURM's own words, lists and constraints."""
_TIME = re.compile(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})")
"""sbatch(1), --time: minutes, m:s, h:m:s, days-h, days-h:m, days-h:m:s."""
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_FOLDER = re.compile(r"(/|\$[A-Za-z_]\w*)[\w./$+-]*")
"""A folder of the node: absolute, or below a variable that the job has there, such as $SLURM_TMPDIR."""
GPUS_PER_NODE = 8
"""Of an HGX or DGX node, from A100 to B300."""
OURS = (
    *("nodes", "ntasks-per-node", "time", "job-name", "output", "error", "open-mode"),
    *("signal", "requeue", "no-requeue", "array", "dependency", "comment", "wrap"),
)
"""Options of sbatch that are settings of their own, or that a run needs to find its log, to be signalled and to be
requeued."""


@dataclass(kw_only=True, slots=True)
class ContainerConfig:
    """An image that ranks run in. The batch script itself runs outside of it, where SLURM's commands are."""

    engine: Literal["none", "pyxis", "apptainer"] = "none"
    """`pyxis`: srun --container-image (enroot); `apptainer`: apptainer exec --nv."""
    image: str = ""
    """pyxis: registry#name:tag or a .sqsh file; apptainer: a .sif file or docker://name."""
    mounts: list[str] = field(default_factory=list)
    """Folders besides the run's own, its code and the working directory: host[:inside[:ro]]."""

    def __post_init__(self) -> None:
        if (self.engine == "none") != (self.image == ""):
            raise ValueError(
                f"engine={self.engine}, image={self.image!r}: an image needs an engine, pyxis or apptainer, and they it"
            )
        for text in (self.image, *self.mounts):
            if re.search(r"[\s,'\"]", text):  # the engines separate by commas
                raise ValueError(f"got {text!r}: image and mounts must not hold spaces, commas or quotes")


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    """The `cluster` section with kind=slurm."""

    partition: str | None = None
    """null: the cluster's default, as for account and qos."""
    account: str | None = None
    qos: str | None = None
    nodes: int | None = None
    """null: as many as the mesh fills."""
    gpus_per_node: int = GPUS_PER_NODE
    """GPUs that are asked for of a node, each for one rank. 0: ranks compute on CPUs."""
    cpu_ranks_per_node: int = 1
    """Ranks of a node without GPUs."""
    cpus_per_task: int | None = None
    """CPUs of a rank, for its threads and those that load data. null: SLURM's default, often 1."""
    time: str | int = "1-00:00:00"
    """Limit of one job; a run that needs longer is requeued. sbatch --time: [days-]hours:minutes:seconds."""
    launcher: Literal["srun", "torchrun"] = "srun"
    """`srun`: a task a rank, which loses no signal and no exit code; `torchrun`: an agent a node."""
    venv: str | None = None
    """Environment of the ranks, on a file system that all nodes see. null: the one that submits; in a container, its
    own `python`."""
    modules: list[str] = field(default_factory=list)
    """`module load`, in this order, after `module purge`. Empty: neither."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    interface: str | None = None
    """Network interface of rendezvous and NCCL's bootstrap (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME). null: they
    choose."""
    env: dict[str, str | int] = field(default_factory=dict)
    """Further variables of the ranks."""
    scratch: str | None = None
    """Folder on a disk of each node that the environment is copied to first: 2,048 ranks that import torch from a
    network file system take minutes. null: run it from where it is."""
    constraint: str | None = None
    """Features that nodes must have, sbatch --constraint."""
    exclude: list[str] = field(default_factory=list)
    """Nodes never to use, as names or ranges; those that stalled runs before come on top."""
    exclude_after_stalls: int = 2
    """Stalls of this run after which it leaves a node out: when it is requeued, and when it is submitted again."""
    signal_before_s: int = 120
    """How long before the time limit the run is told to save: longer than a step and a checkpoint take. sbatch
    --signal, which may come up to 60 s early."""
    max_starts_without_progress: int = 3
    """After so many starts in a row without a new checkpoint the job is not requeued."""
    sbatch: dict[str, str | int | bool | None] = field(default_factory=dict)
    """Further options by their long names: {mem: 0, exclusive: true} is --mem=0 --exclusive. null takes one of ours
    away, such as {gpus-per-node: null} where GPUs come with the node."""

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "constraint", "interface"):
            _check_word(name, getattr(self, name))
        for node in self.exclude:
            _check_word("exclude", node)
        lows = {"gpus_per_node": 0, "cpu_ranks_per_node": 1, "signal_before_s": 10, "max_starts_without_progress": 1}
        lows |= {"nodes": 1, "cpus_per_task": 1, "exclude_after_stalls": 1}
        for name, low in lows.items():
            if (number := getattr(self, name)) is not None and number < low:
                raise ValueError(f"{name} must be at least {low}, got {number}")
        if self.gpus_per_node and self.cpu_ranks_per_node != 1:
            raise ValueError(
                f"cpu_ranks_per_node must be left out with gpus_per_node={self.gpus_per_node}, "
                f"got {self.cpu_ranks_per_node}: each GPU has one rank"
            )
        if not isinstance(self.time, str) or not _TIME.fullmatch(self.time):
            raise ValueError(
                f"time must be [days-]hours:minutes:seconds, got {self.time!r}; YAML makes a number of 2:00:00, so "
                "write '2:00:00' there, and 0-2:00:00 in an override"
            )
        for name in self.env:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"env must hold names of variables, got {name!r}")
        for module in self.modules:
            _check_word("modules", module)
        self._check_folders()
        self._check_options()

    def _check_folders(self) -> None:
        if self.scratch is not None and not _FOLDER.fullmatch(self.scratch):
            raise ValueError(f"scratch must be an absolute folder or begin with a variable, got {self.scratch!r}")
        if self.venv is not None and not Path(self.venv).is_absolute():
            raise ValueError(f"venv must be an absolute path, got {self.venv!r}: jobs start elsewhere")
        if self.scratch is not None and self.container.engine != "none":
            raise ValueError(f"scratch must be null with a container, got {self.scratch!r}: the image is local already")

    def _check_options(self) -> None:
        for option, value in self.sbatch.items():
            if option in OURS:
                raise ValueError(f"sbatch must not set {option}: the run depends on it")
            if not re.fullmatch(r"[a-z]+(-[a-z]+)*", option):
                raise ValueError(f"sbatch must hold long names of options without dashes before them, got {option!r}")
            if value is False:
                raise ValueError(f"sbatch.{option} must be true, a value, or null for sbatch's default, got {value}")
            if value is not None and value is not True:
                _check_word(f"sbatch.{option}", str(value))

    @property
    def ranks_per_node(self) -> int:
        return self.gpus_per_node or self.cpu_ranks_per_node


def _check_word(name: str, text: str | None) -> None:
    if text is not None and not _WORD.fullmatch(text):
        raise ValueError(f"{name} must be one word of letters, digits and SLURM's signs, got {text!r}")


KINDS: dict[str, type | None] = {"none": None, "slurm": ClusterConfig}
"""`cluster.kind` -> the class of the section."""

AnyCluster: TypeAlias = Annotated[ClusterConfig | None, "by kind", KINDS]
"""Validated as the class that `kind` names; none: this machine."""
