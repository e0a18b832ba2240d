"""What a run shows of its balance in some of its rows: panels, a picture of the loads, the collapse alarm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from train.afmoe.tally import Tallies
from train.balance.alarm import CollapseAlarm
from train.balance.balancer import Balancer
from train.balance.panels import by_group, by_layer, router_panels
from train.metrics.row import Watched
from train.pictures.loads import draw_loads


class BalanceWatch:
    """Looks at every step once, after its biases have moved."""

    def __init__(
        self,
        balancer: Balancer,
        layer_ids: Sequence[str],
        *,
        panels_every: int,
        heatmap_every: int,
        picture: Path | None,
    ):
        """panels_every, heatmap_every: in steps, 0 for never; picture: where the loads are drawn, None on the ranks
        that draw nothing."""
        self._balancer = balancer
        self._layer_ids = layer_ids
        self._panels_every = panels_every
        self._heatmap_every = heatmap_every
        self._picture = picture
        self._alarm = CollapseAlarm(balancer.config.alarm, layer_ids)

    def prepare(self, step: int) -> None:
        """Before the forward passes of `step`: tells the layers whether it measures their routers."""
        for layer in self._balancer.layers:
            layer.tally.watches_router = is_due(self._panels_every, step)

    def observe(self, step: int, routing: Tallies, *, tokens: int) -> Watched:
        """Parts of the row of `step`, a step of that many tokens, after the biases have moved.

        routing: of all ranks together, on the host.
        """
        parts: Watched = {}
        if is_due(self._panels_every, step):
            panels = self._panels(routing, tokens)
            parts["balance"] = by_group(panels)
            parts["by_layer"] = by_layer(panels, self._layer_ids)
        if self._picture is not None and is_due(self._heatmap_every, step):
            draw_loads(routing.counts_LE, self._layer_ids, title=f"step {step:,}", path=self._picture)
            parts["loads"] = self._picture
        if (warning := self._alarm.observe(routing.counts_LE)) is not None:
            parts["alarm"] = warning
        return parts

    def _panels(self, routing: Tallies, tokens: int) -> dict[str, Tensor]:
        num_experts = routing.counts_LE.shape[-1]
        return self._balancer.panels(routing.counts_LE) | router_panels(
            routing.router_L3, routing.max_logit_L, tokens=tokens, num_experts=num_experts
        )


def is_due(every: int, step: int) -> bool:
    """Whether something that happens every `every` steps happens in this one; 0: never."""
    return every > 0 and step % every == 0
