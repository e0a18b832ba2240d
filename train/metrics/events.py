"""What happened to a run between its steps: starts, ends, requeues, rewinds -> marks and alerts for W&B. Pure.

event/start    number of the start, in the first row after it      event/phase   number of the phase, in every row
event/requeue  1 in the first row after one                        event/text    what happened before the row
event/rewind   number of the rewind, in the first row after it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Event = Mapping[str, Any]
"""A line of <run>/starts.jsonl (train/process/starts.py), or what a rewind left (train/checkpoint/rewind.py)."""

MAX_STARTS = 50
"""Starts that W&B's configuration lists, the newest."""
WHERE = ("host", "nodes", "job", "ranks", "step")
"""Keys of a start that are shown."""


class History(NamedTuple):
    """What a run is when a start of it opens its sinks."""

    events: Sequence[Event] = ()
    """Lines of starts.jsonl, this start's included."""
    rewinds: Sequence[Event] = ()
    """{"step": gone back to, "last_step": of the last checkpoint then} of each, in their order."""
    code: Mapping[str, Any] = {}
    """Version of the code (train/process/code.py)."""


class Alert(NamedTuple):
    title: str
    text: str


def marks(history: History, *, told: int, rewinds_told: int) -> dict[str, Any]:
    """What the next row carries: of events those after the first `told`, of rewinds likewise. Empty: no news."""
    events, rewinds = history.events, history.rewinds
    new, new_rewinds = events[told:], rewinds[rewinds_told:]
    figures: dict[str, Any] = {}
    if any(event["event"] == "start" for event in new):
        figures["event/start"] = sum(event["event"] == "start" for event in events)
    if any(event.get("requeue") or event.get("restart") for event in new):
        figures["event/requeue"] = 1
    if new_rewinds:
        figures["event/rewind"] = len(rewinds)
    texts = [describe(event) for event in new] + [describe({"event": "rewind", **event}) for event in new_rewinds]
    return figures | ({"event/text": "; ".join(texts)} if texts else {})


def alerts(events: Sequence[Event], *, told: int) -> list[Alert]:
    """Of the events after the first `told`: stalls, and jobs that were not queued again."""
    new = events[told:]
    stalls = [Alert("stall", describe(event)) for event in new if event["event"] == "stall"]
    ends = [event for event in new if event.get("requeue") is False and event.get("exit_code") != 0]
    return stalls + [Alert("not requeued", describe(event)) for event in ends]


def starts(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The newest starts, as W&B's configuration lists them."""
    found = [event for event in events if event["event"] == "start"]
    return [{key: event.get(key) for key in ("time", *WHERE)} for event in found[-MAX_STARTS:]]


def describe(event: Event) -> str:
    """In words."""
    match event["event"]:
        case "start":
            where = ", ".join(f"{key} {event[key]}" for key in WHERE if event.get(key) is not None)
            return f"start ({where})"
        case "end":
            return f"end at step {event.get('step')} with exit code {event.get('exit_code')}: {event.get('reason')}"
        case "decision":
            verdict = "requeued" if event.get("requeue") else "not requeued"
            return f"{verdict} after exit code {event.get('exit_code')}: {event.get('reason')}"
        case "stall":
            suspects = f"; suspects: {', '.join(map(str, event['suspects']))}" if event.get("suspects") else ""
            return f"stall in step {event.get('step')}: {event.get('reason')}{suspects}"
        case "submit":
            return f"submitted as {', '.join(map(str, event.get('jobs', ())))}"
        case "rewind":
            return f"rewound from step {event.get('last_step')} to step {event.get('step')}"
        case other:
            return str(other)
