"""What a rank, and rank 0 for all, has to do for a run of Trinity Large on 128, 512 and 2,048 ranks.

    python -m tests.bench_scale [--ranks 128,512,2048]       --ranks '': the data only

The state is the real one of rank 0: the engine's own sharding on pretended ranks, on the meta device. What the other
ranks would send is that of rank 0 with other offsets. Seconds are those of the processor, one thread. Each number of
ranks is counted in a process of its own, whose memory is that of rank 0 with all that it holds for the others.

data        what windows of tokens read, counted by a store, with manifests of version 1, which commits until f4300b6
            wrote, and of today
large       a start, part by part, and what collectives of a step move
checkpoint  to save it, and to go on from it

Ends with status 1 where rank 0 takes more than 10 s or 2 GiB to save, or a rank more than 60 s to start. To the start
come the manifests (above) and the tokenizer; weights are drawn by the device that they lie on, so their seconds count
for a run on CPUs only.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Mapping
from typing import Any

from tests.measured import run_measured

MAX_SAVE_S, MAX_BYTES = 10.0, 2 * 2**30


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="128,512,2048", help="default: 128,512,2048")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        gc.disable()  # as torchtitan's trainer does
        print(json.dumps(figures_of(args.one)))
        return 0
    from tests.bench_scale.data import READERS, data_table

    show({"manifest": dict(zip(READERS, READERS, strict=True)), **data_table()})
    columns = {}
    for ranks in map(int, filter(None, args.ranks.split(","))):
        taken = run_measured("tests.bench_scale", "--one", str(ranks))
        if taken.exit_code:
            sys.exit(taken.output)
        columns[ranks] = json.loads(taken.output.splitlines()[-1])
    if not columns:
        return 0
    names = next(iter(columns.values()))
    show({"ranks": {ranks: f"{ranks:,}" for ranks in columns}})
    show({name: {ranks: _text(name, column[name]) for ranks, column in columns.items()} for name in names})
    return judge(columns[max(columns)])


def figures_of(num_ranks: int) -> dict[str, float]:
    import train.loop.build  # what a rank imports  # noqa: F401
    from tests.bench_scale.checkpoint import checkpoint_figures
    from tests.bench_scale.large import start, step_figures
    from train.blueprint.sharded import pretended_ranks

    with pretended_ranks(num_ranks):
        started, figures = start(num_ranks)
        return figures | step_figures(started) | checkpoint_figures(started, num_ranks)


def judge(last: Mapping[str, float]) -> int:
    from tests.bench_scale.checkpoint import GROWN, TO_READ, TO_SAVE
    from tests.bench_scale.large import MAX_START_S, TO_START

    start_s = sum(last[name] for name in (*TO_START, *TO_READ))
    save_s = sum(last[name] for name in TO_SAVE)
    print(f"rank 0, to save: {save_s:.1f} s of {MAX_SAVE_S:.0f} s that are allowed, and {MAX_BYTES / 2**20:,.0f} MiB")
    print(f"a rank, to start: {start_s:.1f} s of {MAX_START_S:.0f} s that are allowed")
    return int(save_s > MAX_SAVE_S or last[GROWN] > MAX_BYTES or start_s > MAX_START_S)


def show(table: Mapping[str, Mapping[Any, str]]) -> None:
    for name, values in table.items():
        print(f"{name:<52}" + "".join(f"{value:>14}" for value in values.values()))


def _text(name: str, value: float) -> str:
    if name.endswith("bytes"):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,.2f} s" if name.endswith(", s") else f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
