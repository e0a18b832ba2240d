"""train/watchdog/report.py: who is to blame, from what ranks said twice."""

from __future__ import annotations

from dataclasses import replace

from train.watchdog.report import NAMED, Said, as_json, from_json, silent_ranks, suspects, table, verdict


def said(rank: int, *, beat: int = 5, step: int = 7, collectives: int = 40, activity: str = "forward_backward") -> Said:
    return Said(
        rank=rank,
        host=f"n{rank // 8}",
        process=1000 + rank,
        stacks=9,
        beat=beat,
        step=step,
        activity=activity,
        seconds=183.4,
        collectives=collectives,
    )


def everybody(*words: Said) -> dict[int, Said]:
    return {one.rank: one for one in words}


def test_a_word_survives_the_store() -> None:
    assert from_json(as_json(said(3))) == said(3)


def test_who_said_nothing_between_two_readings_is_silent() -> None:
    before = everybody(said(0), said(1), said(2))
    after = everybody(said(0, beat=6), said(1), said(2, beat=7))
    assert silent_ranks(before, after, 3) == [1]


def test_who_never_said_anything_is_silent_and_who_has_just_begun_is_not() -> None:
    assert silent_ranks(everybody(said(0)), everybody(said(0, beat=6), said(1)), 3) == [2]


def test_the_silent_are_to_blame_whatever_the_others_do() -> None:
    assert suspects(everybody(said(0, collectives=1), said(1)), [1]) == [1]


def test_where_all_speak_those_who_came_least_far_are_to_blame() -> None:
    words = everybody(said(0), said(1, collectives=39), said(2), said(3, collectives=39))
    assert suspects(words, []) == [1, 3]
    assert suspects(everybody(said(0, step=6, collectives=90), said(1)), []) == [0]


def test_where_all_wait_in_the_same_place_nobody_is() -> None:
    words = everybody(said(0), said(1))
    assert suspects(words, []) == []
    assert verdict(words, []) == "all ranks wait in the same place; look at the network and at the stacks"


def test_the_verdict_names_rank_host_and_process_and_what_is_known() -> None:
    assert verdict(everybody(said(0), said(9)), [9]) == (
        "rank 9 on n1 (process 1009) says nothing any more: it is stopped, or hangs; its last word was forward_backward"
    )
    assert verdict(everybody(said(0), said(9, collectives=2, activity="data")), []) == (
        "rank 9 on n1 (process 1009) has come less far than the others: it is in data for 183 s"
    )
    assert verdict(everybody(said(0)), [1]) == "rank 1 has never said anything"


def test_of_a_whole_rack_a_message_names_the_first_few() -> None:
    words = verdict({}, list(range(64)))
    assert words.count("rank") == NAMED
    assert words.endswith("; and 56 more")


def test_the_table_has_a_line_a_rank() -> None:
    lines = table(everybody(said(1), replace(said(0), activity="data")), [1]).splitlines()
    assert [line.split() for line in lines] == [
        ["rank", "host", "process", "step", "doing", "for", "s", "collectives"],
        ["0", "n0", "1000", "7", "data", "183", "40"],
        ["1", "n0", "1001", "7", "forward_backward", "183", "40", "silent"],
    ]
