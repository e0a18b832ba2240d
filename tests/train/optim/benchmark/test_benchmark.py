"""python -m train.optim.benchmark: all Muons on 4 ranks, 2 x 2 with EP 2, and plans of real meshes. Judges no time."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from data_pipelines.base.errors import CONFIG_EXIT
from tests.train.small import MODEL
from train.model import read
from train.optim.benchmark import __main__ as benchmark
from train.optim.benchmark.contestants import check_padding
from train.optim.benchmark.measure import Measured, exclusive_seconds, measure
from train.optim.benchmark.planned import busiest_over_mean, planned_loads
from train.optim.benchmark.report import HEADING, table

PROBLEM = [
    "model=trinity_smoke",
    *MODEL,
    "model.num_dense_layers=2",  # of each shape as many as muon-optimizer can pad
    "parallelism=hsdp_2x2_ep2",
    "training.mixed_precision_param=float32",
]


@pytest.fixture(scope="module")
def results() -> dict[str, Measured]:
    return measure(read(PROBLEM), list(benchmark.MUONS), steps=2)


@pytest.mark.parametrize("name", [*benchmark.OURS, "muon-optimizer"])
def test_each_matrix_is_multiplied_once_in_the_world(results: dict[str, Measured], name: str) -> None:
    assert results[name].flops_ratio == 1.0


def test_torch_multiplies_each_matrix_on_every_rank(results: dict[str, Measured]) -> None:
    assert results["torch"].flops_ratio == 4.0
    assert results["torch"].received == [0] * 4


@pytest.mark.parametrize("name", benchmark.OURS)
def test_ours_receives_at_most_1_3_times_what_is_needed(results: dict[str, Measured], name: str) -> None:
    assert 0 < results[name].bytes_ratio <= benchmark.MAX_BYTES_RATIO


def test_muon_optimizer_sends_float32_where_bfloat16_would_do(results: dict[str, Measured]) -> None:
    assert results["muon-optimizer"].bytes_ratio >= 2.0


def test_torchtitans_is_refused_with_its_own_words(results: dict[str, Measured]) -> None:
    assert results["torchtitan"].refusal == "DistMuon requires one CUDA device per process"
    assert f"torchtitan does not run here: {results['torchtitan'].refusal}" in table(results)


def test_steps_are_timed_on_all_ranks(results: dict[str, Measured]) -> None:
    ours = results[benchmark.OURS[0]]
    assert [len(ours.seconds), len(ours.cpu_seconds), len(ours.flops), len(ours.received)] == [2, 2, 4, 4]


@pytest.mark.parametrize("name", benchmark.OURS)
def test_every_phase_of_ours_is_timed(results: dict[str, Measured], name: str) -> None:
    phases = {"decay", "send gradients", "wait for gradients", "update", "momentum", "Newton-Schulz"}
    phases |= {"wait for updates", "wait for replicas", "apply"}
    assert set(results[name].phases) == phases
    assert all(seconds > 0 for seconds in results[name].phases.values())
    assert all(phase in table(results) for phase in phases)


def test_a_range_does_not_count_what_lies_in_it() -> None:
    # outer 0 to 10 s with inner 1 to 4 and 5 to 6, the second with deep 5 to 5.5; then outer again
    ranges = [("outer", 0, 10e6), ("inner", 1e6, 4e6), ("inner", 5e6, 6e6), ("deep", 5e6, 5.5e6), ("outer", 10e6, 11e6)]
    assert exclusive_seconds(ranges) == pytest.approx({"outer": 7.0, "inner": 3.5, "deep": 0.5})


def test_the_table_by_hand() -> None:
    measured = partial(Measured, needed_flops=8, needed_bytes=2e9)
    fast = measured(seconds=[9, 1, 2], cpu_seconds=[3, 4, 50], flops=[6, 2], received=[10**9, 10**9])
    slow = measured(seconds=[5.0], cpu_seconds=[10.0], flops=[8, 8], received=[3 * 10**9, 2 * 10**9])
    lines = [line.split("  ") for line in table({"fast": fast, "slow": slow}).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == list(HEADING[1:])
    # medians 2 and 4; 6 of 4 in the mean
    assert cells[1] == ["fast", "2.00", "1.00", "4.00", "1.00", "1.00", "2.00", "1.00", "1.50"]
    assert cells[2] == ["slow", "5.00", "2.50", "10.00", "2.50", "2.00", "5.00", "2.50", "1.00"]


@pytest.mark.parametrize(("flops", "received", "wasteful"), [(8, 13, False), (9, 10, True), (8, 14, True)])
def test_waste_is_an_exit_code(flops: int, received: int, wasteful: bool) -> None:
    ours = Measured(flops=[flops], received=[received], needed_flops=8, needed_bytes=10)
    assert benchmark.wastes(ours) == wasteful


@pytest.mark.parametrize(("count", "fits"), [(8, True), (12, True), (6, True), (18, False), (3, False)])
def test_what_muon_optimizer_cannot_gather_is_said_before(count: int, fits: bool) -> None:
    if fits:
        check_padding(count, torch.Size((4, 8)), num_ranks=8)
        return
    with pytest.raises(ValueError, match=f"pads its {count} matrices of 4 x 8 by {count} mod 8"):
        check_padding(count, torch.Size((4, 8)), num_ranks=8)


@pytest.mark.parametrize(
    ("experiment", "num_ranks"),
    [("trinity_nano_1node", 8), ("trinity_nano", 512), ("trinity_mini", 512), ("trinity_large", 2048)],
)
def test_the_plan_of_a_recipe_is_even_over_all_ranks(experiment: str, num_ranks: int) -> None:
    loads = planned_loads(read([f"experiment={experiment}"]))
    assert len(loads) == num_ranks
    assert busiest_over_mean(loads) <= 1.15


def test_loads_of_a_plan_are_those_of_real_ranks(results: dict[str, Measured]) -> None:
    assert planned_loads(read(PROBLEM)) == results[benchmark.OURS[0]].flops


def test_experts_that_do_not_divide_evenly_have_no_plan_of_rank_0(capsys: pytest.CaptureFixture[str]) -> None:
    uneven = ["parallelism.data_parallel_shard_degree=3", "parallelism.data_parallel_replicate_degree=1"]
    uneven += ["parallelism.expert_parallel_degree=1"]
    assert benchmark.main(["--plan", *PROBLEM, *uneven]) == CONFIG_EXIT
    assert "model.num_experts=8: do not divide evenly" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--muons", "mine"], ["--steps", "0"]])
def test_an_option_that_cannot_work_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        benchmark.main(wrong)
    assert exit_.value.code == CONFIG_EXIT


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["trinity_tinny"]) == CONFIG_EXIT
    assert "did you mean trinity_tiny" in capsys.readouterr().err


def test_the_plan_is_shown_without_a_rank(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--plan", *PROBLEM]) == 0
    assert "x mean" in capsys.readouterr().out.splitlines()[-1]
