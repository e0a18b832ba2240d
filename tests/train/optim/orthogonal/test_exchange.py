"""The order in which rounds are worked on; what they carry is tested in test_sharded.py."""

from __future__ import annotations

from collections.abc import Iterator

from train.optim.orthogonal.exchange import run_interleaved


def round_of(name: str, trace: list[str]) -> Iterator[None]:
    """The stages of an exchange, each noted when it begins."""
    for stage in ("send", "compute", "gather"):
        trace.append(f"{stage} {name}")
        yield
    trace.append(f"apply {name}")


def test_a_round_travels_while_the_one_before_is_computed():
    trace: list[str] = []
    run_interleaved(round_of(name, trace) for name in "AB")
    # B is on its way before A is computed, and A is gathered after the computation of B has been launched.
    assert trace == [
        "send A",
        *("send B", "compute A"),
        *("compute B", "gather A"),
        *("gather B", "apply A"),
        "apply B",
    ]


def test_at_most_four_rounds_are_alive():
    trace: list[str] = []
    run_interleaved(round_of(str(i), trace) for i in range(20))
    alive = [
        sum(e.startswith("send") for e in trace[:n]) - sum(e.startswith("apply") for e in trace[:n])
        for n in range(len(trace) + 1)
    ]
    assert max(alive) == 4
    assert alive[-1] == 0
