"""train/loop/local_work.py, on the host's clock. The device's needs a GPU and was not run."""

from __future__ import annotations

import time

import torch

from train.loop.local_work import LocalWork


def test_what_is_timed_is_counted_once_and_its_result_comes_through() -> None:
    work = LocalWork(torch.device("cpu"))
    sleep = work.timed(lambda seconds: time.sleep(seconds) or seconds)
    assert sleep(0.02) == 0.02
    time.sleep(0.05)  # not timed
    sleep(0.01)
    seconds = work.pop_seconds()
    assert seconds >= 0.03
    assert work.pop_seconds() == 0
