"""One cluster for all tests of this folder; where it cannot be, they skip and say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.slurm.cluster import Cluster, missing_programs


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    if missing := missing_programs():
        pytest.skip(f"no SLURM here: {', '.join(missing)} not found; apt-get install slurm-wlm munge")
    with TemporaryDirectory(prefix="slurm-") as folder:  # short: the path of a socket has 108 bytes
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def cluster(running_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, which the commands of this process talk to."""
    for name, value in running_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return running_cluster
