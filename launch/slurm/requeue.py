"""Whether a job goes on: from its exit code, and from what the run has come to in the starts before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from data_pipelines.base.errors import CONFIG_EXIT, REQUEUE_EXIT, RUN_EXIT

Event = Mapping[str, Any]
"""A line of <run>/starts.jsonl (train/process/starts.py)."""
FINAL = {
    0: "the run is complete",
    CONFIG_EXIT: "it cannot work as configured",
    RUN_EXIT: "the run had to stop by itself",
}
"""Exit codes after which the same command would end in the same way."""


@dataclass(frozen=True)
class Decision:
    goes_on: bool
    reason: str
    """A sentence for the log, the status and W&B."""
    exit_code: int
    """How the run ended; not always what srun says."""


def decide(events: Sequence[Event], *, job: str, exit_code: int, step: int, max_starts: int) -> Decision:
    """events: of the run, in order. step: of the last complete checkpoint now; 0: none.

    Starts count from the submission of the job on: whoever submits a run again has perhaps mended it.
    """
    if (own := own_exit_code(events, job)) is not None:
        exit_code = own
    if exit_code in FINAL:
        return Decision(False, f"exit code {exit_code}: {FINAL[exit_code]}", exit_code)
    fruitless = len(list(takewhile(lambda made: not made, reversed(progress(since_submission(events, job), step)))))
    how = "stopped by a signal" if exit_code == REQUEUE_EXIT else f"exit code {exit_code}"
    if fruitless >= max_starts:
        reason = f"{how}: no progress in {fruitless} starts in a row, all ended at step {step}; not started again"
        return Decision(False, reason, exit_code)
    return Decision(True, f"{how}: goes on from step {step}", exit_code)


def own_exit_code(events: Sequence[Event], job: str) -> int | None:
    """How rank 0 ended in the last start, where it ended in a way of its own. srun gives the highest of all
    ranks: 143 where the end of the first one made it stop others that had saved, and were about to end."""
    last = events[-1] if events else {}
    start = next((event for event in reversed(events) if event["event"] == "start"), {})
    is_own = start.get("job") == job and last.get("event") == "end" and last["exit_code"] in (*FINAL, REQUEUE_EXIT)
    return last["exit_code"] if is_own else None


def since_submission(events: Sequence[Event], job: str) -> list[Event]:
    """The events of a job, and of the others that were submitted with it as a chain."""
    submissions = [place for place, event in enumerate(events) if job in event.get("jobs", ())]
    if not submissions:  # by hand, with sbatch
        return [event for event in events if event.get("job") == job]
    jobs = events[submissions[-1]]["jobs"]
    return [event for event in events[submissions[-1] + 1 :] if event.get("job") in jobs]


def progress(events: Sequence[Event], step: int) -> list[bool]:
    """Whether each start, the last one among them, made a checkpoint. One that was over before the program could write
    its start, or that was killed as a whole, counts too."""
    spans = list(_spans(events, step))
    return [after != before for before, after in spans]


def _spans(events: Sequence[Event], step: int) -> Iterator[tuple[int, int]]:
    """(step before, step after) of each start."""
    before: int | None = None
    last: int | None = None
    for event in events:
        if event["event"] == "start":
            if before is not None:  # killed with its batch script: no decision
                yield before, event["step"]
            before = event["step"]
        elif event["event"] == "decision":
            yield _first(before, last, event["step"]), event["step"]
            before = None
            last = event["step"]
    yield _first(before, last, step), step


def _first(*steps: int | None) -> int:
    return next(step for step in steps if step is not None)


def successors(events: Sequence[Event], job: str) -> list[str]:
    """The jobs of a chain that wait for `job`."""
    jobs = next((event["jobs"] for event in reversed(events) if job in event.get("jobs", ())), [job])
    return list(jobs[jobs.index(job) + 1 :])


def stalled_nodes(events: Sequence[Event], *, at_least: int) -> list[str]:
    """Nodes that the watchdog suspected in so many starts, sorted."""
    suspects = [node for event in events for node in dict.fromkeys(event.get("suspects", ()))]
    return sorted(node for node in set(suspects) if suspects.count(node) >= at_least)
