"""train/schedule/timeline.py against schedules that are worked by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from train.schedule.config import BatchStage, Decay, Phase, ScheduleConfig
from train.schedule.timeline import Timeline, split_batch

T = 10**12
WARMUP = 201_326_592_000


def trinity(*, token_scale: float, sequences: tuple[int, int]) -> ScheduleConfig:
    """configs/schedule/trinity_large.yaml, with the batch of a run."""
    return ScheduleConfig(
        phases=[
            Phase(name="general", tokens=10 * T),
            Phase(name="high_quality", tokens=4 * T),
            Phase(name="stem", tokens=3 * T),
        ],
        batch=[
            BatchStage(from_tokens=0, sequences=sequences[0]),
            BatchStage(from_tokens=4_900_000_000_000, sequences=sequences[1]),
        ],
        warmup_tokens=WARMUP,
        decay=Decay(from_tokens=10 * T, shape="cosine", floor=0.1),
        token_scale=token_scale,
    )


@pytest.fixture
def smoke() -> Timeline:
    return Timeline(trinity(token_scale=5e-8, sequences=(24, 32)), seq_len=256)


@pytest.fixture
def large() -> Timeline:
    return Timeline(trinity(token_scale=1.0, sequences=(12288, 16384)), seq_len=8192)


def plain(tokens: int, *, batch: int, seq_len: int = 10, **more: object) -> Timeline:
    """One phase, one batch size."""
    schedule = ScheduleConfig(
        phases=[Phase(name="only", tokens=tokens)],
        batch=[BatchStage(from_tokens=0, sequences=batch)],
        **more,  # type: ignore[arg-type]
    )
    return Timeline(schedule, seq_len)


def test_scaled_phases_end_at_the_last_whole_window_of_their_budget(smoke: Timeline) -> None:
    # 500,000 / 256 = 1953.1, 700,000 / 256 = 2734.4, 850,000 / 256 = 3320.3
    assert smoke.phase_windows == (1953, 781, 586)
    assert smoke.phase_edges == (1953, 2734, 3320)
    assert smoke.num_windows == 3320  # a multiple of gcd(24, 32) = 8, so nothing is left over


def test_the_batch_grows_at_the_first_step_that_begins_after_its_edge(smoke: Timeline) -> None:
    # 4.9T x 5e-8 / 256 = 957.03 windows; 39 steps of 24 end at 936, 40 end at 960
    assert smoke.ramp_steps == (1, 41)
    assert smoke.step(40)[:3] == (40, 936, 24)
    assert smoke.step(41)[:3] == (41, 960, 32)


def test_the_last_step_takes_what_is_left(smoke: Timeline) -> None:
    # 3320 - 960 = 2360 = 73 x 32 + 24
    assert smoke.num_steps == 40 + 73 + 1 == 114
    assert smoke.step(114)[:3] == (114, 3296, 24)


def test_each_phase_ends_with_the_step_that_trains_its_last_window(smoke: Timeline) -> None:
    # windows 1952, 2733 and 3319: 41 + 992 // 32, 41 + 1773 // 32, 41 + 2359 // 32
    assert smoke.phase_end_steps == {72: "general", 96: "high_quality", 114: "stem"}


def test_a_step_belongs_to_the_phase_of_its_first_window(smoke: Timeline) -> None:
    # step 72 takes 1952..1983, all but one of the second phase
    assert smoke.step(72).first_window == 1952
    assert [smoke.step(number).phase for number in (1, 72, 73, 97, 114)] == [
        "general",
        "general",
        "high_quality",
        "stem",
        "stem",
    ]


def test_every_window_is_trained_once(smoke: Timeline) -> None:
    steps = [smoke.step(number) for number in range(1, smoke.num_steps + 1)]
    assert steps[0].first_window == 0
    assert all(later.first_window == step.first_window + step.num_windows for step, later in pairwise(steps))
    assert steps[-1].first_window + steps[-1].num_windows == smoke.num_windows
    for step in steps:
        windows = range(step.first_window, step.first_window + step.num_windows)
        assert {smoke.step_of(window) for window in windows} == {step.number}


def test_a_step_takes_the_rate_at_its_middle(smoke: Timeline) -> None:
    # warmup: 201,326,592,000 x 5e-8 = 10,066.3296 tokens; the middle of step 1 is 12 windows x 256 = 3,072 tokens.
    # abs 1e-15: one float64 rounding
    assert smoke.step(1).lr_factor == pytest.approx(3072 / 10066.3296, abs=1e-15)
    assert smoke.step(10).lr_factor == 1.0


def test_the_cosine_decay_starts_at_its_token_and_ends_near_the_floor(smoke: Timeline) -> None:
    # from 10T x 5e-8 / 256 = 1953.125 windows to 3320; the middle of the last step is 3308
    progress = (3308 - 1953.125) / (3320 - 1953.125)
    expected = 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
    assert smoke.lr_factor(1953.125) == 1.0
    assert smoke.lr_factor((1953.125 + 3320) / 2) == pytest.approx(0.55, abs=1e-12)  # half way: (1 + 0.1) / 2
    assert smoke.step(114).lr_factor == pytest.approx(expected, abs=1e-12)  # float64 cosine
    assert smoke.lr_factor(3320) == pytest.approx(0.1, abs=1e-12)


def test_the_linear_decay_falls_evenly() -> None:
    # 100 tokens are 10 windows; decay over the last 4: half way down at window 8
    timeline = plain(100, batch=1, decay=Decay(from_tokens=60, shape="linear", floor=0.2))
    assert [timeline.lr_factor(window) for window in (0, 6, 8, 10)] == pytest.approx([1.0, 1.0, 0.6, 0.2], abs=1e-12)


def test_trinity_large_takes_138_830_steps(large: Timeline) -> None:
    # 17T / 8192 = 2,075,195,312 windows, 506,639 quanta of 4,096. Ramp: 4.9T / 8192 / 12288 = 48,677.1, so 48,678
    # small steps (598,155,264 windows); the other 1,477,038,080 windows are 90,151.3 steps of 16,384.
    assert large.quantum == 4096
    assert large.num_windows == 506_639 * 4096 < 17 * T // 8192
    assert large.ramp_steps == (1, 48_679)
    assert large.num_steps == 48_678 + 90_152 == 138_830
    assert large.step(138_830).num_windows == 4096


def test_trinity_large_warms_up_for_2000_steps(large: Timeline) -> None:
    # 2,000 steps x 12,288 x 8,192 tokens; the middle of step 2000 lies half a step before its end
    assert large.step(2000).lr_factor == pytest.approx(1999.5 / 2000, abs=1e-12)
    assert large.step(2001).lr_factor == 1.0


def test_a_rest_that_no_mesh_could_divide_is_left_out() -> None:
    # 25 windows, batches of 4: the last window would be a step of one sequence
    timeline = plain(250, batch=4)
    assert (timeline.phase_windows, timeline.num_windows, timeline.num_steps) == ((25,), 24, 6)
    assert timeline.phase_end_steps == {6: "only"}


def test_a_ramp_that_the_run_does_not_reach_changes_nothing() -> None:
    schedule = ScheduleConfig(
        phases=[Phase(name="only", tokens=80)],
        batch=[BatchStage(from_tokens=0, sequences=2), BatchStage(from_tokens=1000, sequences=4)],
    )
    timeline = Timeline(schedule, seq_len=10)
    assert (timeline.ramp_steps, timeline.num_steps) == ((1,), 4)


@pytest.mark.parametrize("number", [0, 115])
def test_a_step_outside_of_the_run_is_refused(smoke: Timeline, number: int) -> None:
    with pytest.raises(ValueError, match=rf"step {number} is outside of 1\.\.114"):
        smoke.step(number)


def test_a_phase_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="every phase needs at least one window of 10 tokens"):
        plain(9, batch=1)


def test_a_run_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="3 windows do not fill one step of 4 sequences"):
        plain(30, batch=4)


@pytest.mark.parametrize(
    ("sequences", "num_ranks", "at_most", "expected"),
    [
        (24, 4, 8, (1, 6)),  # 6 a rank fit at once
        (24, 4, 4, (2, 3)),  # 6 = 2 x 3; 4 does not divide 6
        (16384, 2048, 2, (4, 2)),
        (14, 2, 3, (7, 1)),  # 7 is prime
    ],
)
def test_a_batch_is_split_into_the_fewest_steps_that_fit(
    sequences: int, num_ranks: int, at_most: int, expected: tuple[int, int]
) -> None:
    assert split_batch(sequences, num_ranks=num_ranks, at_most=at_most) == expected


def test_ranks_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="5 data-parallel ranks do not divide a batch of 24 sequences"):
        split_batch(24, num_ranks=5, at_most=8)
