"""What another plan would change: which windows stay, which are not trained any more, which come in their place.

    python -m data_pipelines.diff runs/large runs/large-edited          two runs, or their plan.json
    python -m data_pipelines.diff runs/large runs/large-edited --json

A run that has begun goes on with another data.mix where data.edit=append says so, and with another data.skip where its
windows are still to come. Up to the first window that differs both plans train the same tokens, in the same order.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import json
from pathlib import Path
from typing import Any

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, answers_errors
from data_pipelines.batches.record import FILE_NAME, read_data_record
from data_pipelines.plan.ledger import ledger, passes
from data_pipelines.plan.make_plan import shared_windows
from data_pipelines.plan.plan import Plan


def differing(old: Plan, new: Plan) -> dict[str, Any]:
    """What the two have in common and what not, for programs. Tokens are target tokens."""
    shared = shared_windows(old, new)
    kept, before, after = ledger(new, shared), ledger(old, old.num_windows), ledger(new, new.num_windows)
    rows = []
    for phase in dict.fromkeys([*before, *after]):
        for source in dict.fromkeys([*before.get(phase, {}), *after.get(phase, {})]):
            row = {"phase": phase, "source": source}
            same = kept.get(phase, {}).get(source, 0)
            row |= {"kept": same, "dropped": before.get(phase, {}).get(source, 0) - same}
            rows.append(row | {"new": after.get(phase, {}).get(source, 0) - same})
    of_old, of_new = passes(old, old.num_windows), passes(new, new.num_windows)
    names = sorted({*of_old, *of_new})
    return {
        "first_difference": None if old.hash == new.hash else shared,
        "windows": [old.num_windows, new.num_windows],
        "rows": rows,
        "passes": {name: [of_old.get(name, 0.0), of_new.get(name, 0.0)] for name in names},
        "skipped": [_skipped_tokens(old), _skipped_tokens(new)],
        "left_out": cut_windows(new),
    }


def cut_windows(plan: Plan) -> dict[str, int]:
    """Source -> windows that an appended edit leaves to the next epoch: those of the shuffle block that it cut."""
    found: dict[str, int] = {}
    for p, phase in enumerate(plan.phases):
        if phase.cut is not None:
            served = plan.taken(p, phase.cut)
            for source, count, used in zip(plan.sources, served, plan.used_in(p), strict=True):
                if used > count:
                    found[source.name] = found.get(source.name, 0) + used - count
    return found


def _skipped_tokens(plan: Plan) -> int:
    return sum(count for _, _, count in plan.skipped(plan.num_windows)) * plan.seq_len


def table(difference: dict[str, Any], seq_len: int) -> str:
    """For people."""
    if difference["first_difference"] is None:
        return "the plans are the same"
    shared = difference["first_difference"]
    lines = [f"the same up to window {shared:,} ({shared * seq_len:,} tokens)", ""]
    lines.append(f"{'phase':<16}{'source':<16}{'kept':>22}{'not any more':>22}{'instead':>22}")
    for row in difference["rows"]:
        counts = (row["kept"], row["dropped"], row["new"])
        lines.append(f"{row['phase']:<16}{row['source']:<16}" + "".join(f"{count:>22,}" for count in counts))
    lines += ["", f"{'source':<32}{'passes before':>22}{'passes now':>22}"]
    for name, (before, now) in difference["passes"].items():
        repeated = "   read more than once" if now > 1 >= before else ""
        lines.append(f"{name:<32}{before:>22.3f}{now:>22.3f}{repeated}")
    if any(difference["skipped"]):
        lines += ["", f"skipped tokens: {difference['skipped'][0]:,} before, {difference['skipped'][1]:,} now"]
    if left := difference["left_out"]:
        of_each = ", ".join(f"{count:,} of {name}" for name, count in left.items())
        lines += ["", f"left to the next pass, since the edit cuts their block: {of_each} (windows)"]
    return "\n".join(lines)


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.diff", description=__doc__)
    parser.add_argument("old", metavar="OLD", type=Path, help="run directory, or its plan.json")
    parser.add_argument("new", metavar="NEW", type=Path, help="the same")
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args(arguments)
    old, new = (read_data_record(path.parent if path.name == FILE_NAME else path).plan for path in (args.old, args.new))
    difference = differing(old, new)
    print(json.dumps(difference, indent=1) if args.json else table(difference, new.seq_len))
    return 0


if __name__ == "__main__":
    run_command(main, advice="")
