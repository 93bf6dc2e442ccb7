"""The latencies that provisioning goes by, from the decision log and from what waits. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from global_scheduler.decisions import Decision
from global_scheduler.provisioning.base import Latency, Mode, Quantity
from global_scheduler.queueing.waiting import Waiting


def latencies(
    mode: Mode,
    quantity: Quantity,
    decisions: Iterable[Decision],
    waiting: Iterable[Waiting],
    *,
    now_s: float,
    unix_now_s: float,
) -> tuple[Latency, ...]:
    """What arriving requests are to expect (``preemptive``) or ended ones have met (``reactive``).

    A request that still waits for a unit has no prediction yet; so far it is as late as it is old.
    """
    if mode == "off":
        return ()
    ago_s = now_s - unix_now_s
    if mode == "reactive":
        return tuple(
            Latency(_ended_at(one) + ago_s, one.model, observed_ms)
            for one in decisions
            if (observed_ms := _observed_ms(one, quantity)) is not None
        )
    predicted = (
        Latency(one.time + ago_s, one.model, best_ms)
        for one in decisions
        if (best_ms := _best_predicted_ms(one, quantity)) is not None
    )
    unplaced = (Latency(now_s, one.model, (now_s - one.arrived_s) * 1e3) for one in waiting)
    return (*predicted, *unplaced)


def _observed_ms(decision: Decision, quantity: Quantity) -> float | None:
    return decision.observed_ttft_ms if quantity == "ttft" else decision.observed_e2e_ms


def _ended_at(decision: Decision) -> float:
    """UNIX seconds."""
    return decision.time + ((decision.observed_e2e_ms or 0.0) - decision.waited_ms) / 1e3


def _best_predicted_ms(decision: Decision, quantity: Quantity) -> float | None:
    predicted = [
        one.predicted_ttft_ms if quantity == "ttft" else one.predicted_e2e_ms
        for one in decision.candidates
    ]
    return min((one for one in predicted if one is not None), default=None)
