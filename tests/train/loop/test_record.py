"""train/loop/record.py: the row of a step that is worked by hand."""

from __future__ import annotations

import json
from typing import get_type_hints

import pytest
import torch

from data_pipelines.base.errors import RunError
from train.afmoe.tally import Tallies
from train.loop.record import make_row, measure_speed, stop_at_alarm
from train.loop.totals import Totals
from train.metrics.row import RATE, Row, Speed, Validated, Watched, rates
from train.optim.config import OPTIMIZERS
from train.schedule.timeline import Step

ROUTING = Tallies(
    counts_LE=torch.tensor([[3, 1, 2, 2], [8, 0, 0, 0]]),
    balance_loss_L=torch.tensor([1.0, 3.0]),
    router_L3=torch.zeros(2, 3),
    max_logit_L=torch.zeros(2),
)
TOTALS = Totals(
    loss=2.5,
    accuracy=0.25,
    mean_z=4.0,
    mean_lse=float("nan"),
    max_logit=7.0,
    batch_het=0.125,
    balance_loss_L=torch.tensor([1.0, 3.0]),
    routing=ROUTING,
    digest="0123456789abcdef",
    tokens=[[32]],
    slowest_rank=3,
    slowest_excess=0.5,
    stop=False,
)
LAP = {"data": 1.0, "forward_backward": 2.0, "total": 4.0}


def row(watched: Watched | None = None) -> Row:
    return make_row(
        Step(number=3, first_window=8, num_windows=4, phase="stem", lr_factor=1.0),
        TOTALS,
        seq_len=10,
        layer_ids=["2", "3"],
        grad_norm=0.5,
        rates={"lr_adamw": 2e-4, "lr_muon": 8e-4},
        z_loss_weight=0.5,
        balance_loss_weight=0.25,
        watched=watched or {},
        validated={"validation": {"code": 2.0}},
        speed=measure_speed(LAP, save_seconds=0.5, tokens=40, flops_per_token=3.0, peak_flops=60.0),
        chain="0123456789abcdef" * 2,
    )


def test_the_figures_of_a_row_by_hand() -> None:
    made = row()
    assert made["tokens"] == 120  # 12 windows of 10
    assert made["z_loss"] == 0.5 * 4
    assert made["balance_loss"] == 0.25 * (1 + 3)
    # loads over a mean of 2: 3 / 2 - 1, and 8 / 2 - 1
    assert made["max_violation_by_layer"] == {"2": 0.5, "3": 3.0}
    assert made["max_violation"] == 3.0
    assert made["dead_experts"] == 3
    assert (made["lm_logit_max"], made["lm_logsumexp"]) == (7.0, None)


def test_every_key_of_a_row_is_defined_and_json() -> None:
    made = row({"alarm": "experts collapsed"})
    some_steps = set(get_type_hints(Watched)) | set(get_type_hints(Validated))
    of_optimizers = {f"{RATE}{name}" for name in OPTIMIZERS}
    assert set(made) | some_steps == set(get_type_hints(Row)) | of_optimizers
    assert set(get_type_hints(Row)) - some_steps <= set(made)
    assert rates(made) == {"adamw": 2e-4, "muon": 8e-4}
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_speed_is_over_the_whole_step_and_parts_that_did_not_run_took_no_time() -> None:
    speed = measure_speed(LAP, save_seconds=0.5, tokens=40, flops_per_token=3.0, peak_flops=60.0)
    assert speed["tokens_per_second"] == 10.0
    assert speed["mfu"] == 10 * 3 / 60
    assert speed["seconds"] == LAP | {"optimizer": 0.0, "validation": 0.0, "checkpoint": 0.5}
    assert set(get_type_hints(Speed)) == set(speed)


def test_mfu_without_a_peak_is_null() -> None:
    peak = float("inf")
    no_flops = float("nan")
    assert measure_speed(LAP, save_seconds=0, tokens=40, flops_per_token=no_flops, peak_flops=peak)["mfu"] is None


def test_only_an_alarm_stops() -> None:
    stop_at_alarm(row())
    with pytest.raises(RunError, match=r"step 3: experts collapsed\. The run stops because of balance\.alarm\.stop"):
        stop_at_alarm(row({"alarm": "experts collapsed"}))
