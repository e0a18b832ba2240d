"""What a run sees of its balance: panels, a picture of the loads, the collapse alarm. Parts of a row, in some steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from train.balance.alarm import CollapseAlarm
from train.balance.balancer import Balancer
from train.balance.panels import by_group, by_layer, router_panels
from train.loop.totals import Totals
from train.metrics.config import MetricsConfig
from train.pictures.loads import draw_loads


class BalanceWatch:
    """Looks at each step once."""

    def __init__(self, config: MetricsConfig, balancer: Balancer, layer_ids: Sequence[str], *, picture: Path | None):
        """picture: where the loads are drawn; None on the ranks that draw nothing."""
        self._config = config
        self._balancer = balancer
        self._layer_ids = layer_ids
        self._picture = picture
        self._alarm = CollapseAlarm(balancer.config.alarm, layer_ids)

    def prepare(self, step: int) -> None:
        """Before the forward passes of `step`: is it one whose routers are looked at?"""
        for layer in self._balancer.layers:
            layer.tally.watches_router = is_due(self._config.panels_every, step)

    def observe(self, step: int, totals: Totals, *, tokens: int) -> dict[str, Any]:
        """Parts of the row of `step`, a step of that many tokens, after the biases have moved."""
        parts: dict[str, Any] = {}
        if is_due(self._config.panels_every, step):
            panels = self._panels(totals, tokens)
            parts |= {"balance": by_group(panels), "by_layer": by_layer(panels, self._layer_ids)}
        if self._picture is not None and is_due(self._config.heatmap_every, step):
            draw_loads(totals.counts_LE, self._layer_ids, title=f"step {step:,}", path=self._picture)
            parts["loads"] = self._picture
        if (warning := self._alarm.observe(totals.counts_LE)) is not None:
            parts["alarm"] = warning
        return parts

    def _panels(self, totals: Totals, tokens: int) -> dict[str, Tensor]:
        num_experts = totals.counts_LE.shape[-1]
        return self._balancer.panels(totals.counts_LE) | router_panels(
            totals.router_L3, totals.max_router_logit_L, tokens=tokens, num_experts=num_experts
        )


def is_due(every: int, step: int) -> bool:
    """Whether something that happens in every so-many-th step happens in this one; 0: never."""
    return every > 0 and step % every == 0
