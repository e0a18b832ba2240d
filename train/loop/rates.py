"""Learning rates from the timeline. Extends torchtitan's LRSchedulersContainer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torchtitan.components.optimizer.lr_scheduler import LRSchedulersContainer

from train.optim.groups import Optimizers
from train.schedule.timeline import Timeline


class TimelineSchedule(LRSchedulersContainer):
    """Learning rates from the timeline."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torchtitan's asks its schedulers for a rate between two steps, of which torch warns on every rank."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="To get the last learning rate computed by the scheduler")
            super().load_state_dict(state_dict)

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        timeline: Timeline

        def build(self, *, optimizers: Optimizers, training_steps: int) -> TimelineSchedule:
            """The scheduler counts finished steps from 0, and also asks for the one after the last."""
            timeline = self.timeline
            return TimelineSchedule(optimizers, lambda done: timeline.step(min(done + 1, timeline.num_steps)).lr_factor)
