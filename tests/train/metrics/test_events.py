"""train/metrics/events.py: lines of starts.jsonl as marks, texts and alerts."""

from __future__ import annotations

from typing import Any

from train.metrics.events import History, alerts, marks, starts

FIRST = {
    "event": "start",
    "time": 1.0,
    "host": "n1",
    "job": "7",
    "restart": 0,
    "nodes": "n[1-2]",
    "ranks": 4,
    "step": 0,
}
END = {"event": "end", "time": 2.0, "exit_code": 10, "step": 7, "reason": "asked to stop by SIGUSR1"}
REQUEUE = {"event": "decision", "time": 3.0, "job": "7", "exit_code": 10, "requeue": True, "reason": "step 0 to 7"}
SECOND = {**FIRST, "restart": 1, "step": 7}
STALL = {"event": "stall", "time": 2.5, "step": 9, "suspects": ["n2"], "reason": "rank 3 does not answer"}
REFUSED = {**REQUEUE, "exit_code": 137, "requeue": False, "reason": "3 starts in a row without progress"}


def test_the_first_row_of_a_start_says_what_happened_before_it() -> None:
    history = History([FIRST, END, REQUEUE, SECOND])
    assert marks(history, told=1, rewinds_told=0) == {
        "event/start": 2,
        "event/requeue": 1,
        "event/text": "end at step 7 with exit code 10: asked to stop by SIGUSR1; requeued after exit code 10: step 0 "
        "to 7; start (host n1, nodes n[1-2], job 7, ranks 4, step 7)",
    }


def test_what_was_told_is_not_told_again() -> None:
    rewind = {"step": 40, "last_step": 60}
    history = History([FIRST, END], [rewind, rewind])
    assert marks(history, told=2, rewinds_told=2) == {}
    assert marks(history, told=2, rewinds_told=1) == {
        "event/rewind": 2,
        "event/text": "rewound from step 60 to step 40",
    }


def test_a_stall_and_a_refused_requeue_are_alerts_and_a_plain_requeue_is_none() -> None:
    events = [FIRST, STALL, REQUEUE, REFUSED]
    assert [alert.title for alert in alerts(events, told=0)] == ["stall", "not requeued"]
    assert alerts(events, told=0)[0].text == "stall in step 9: rank 3 does not answer; suspects: n2"
    assert "3 starts in a row without progress" in alerts(events, told=0)[1].text
    assert alerts(events, told=4) == []


def test_a_run_that_is_done_is_no_alert() -> None:
    done: dict[str, Any] = {**REQUEUE, "exit_code": 0, "requeue": False, "reason": "done"}
    assert alerts([FIRST, done], told=0) == []


def test_starts_are_listed_with_where_they_ran() -> None:
    assert starts([FIRST, END, SECOND])[1] == {
        "time": 1.0,
        "host": "n1",
        "nodes": "n[1-2]",
        "job": "7",
        "ranks": 4,
        "step": 7,
    }


def test_an_event_of_a_later_version_is_named_and_not_an_error() -> None:
    assert marks(History([{"event": "moved", "time": 1.0}]), told=0, rewinds_told=0) == {"event/text": "moved"}
