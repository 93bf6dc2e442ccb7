"""The ways of dividing units into pools, by the name that ``--pools`` and the admin API take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from global_scheduler.pools.base import Controller
from global_scheduler.pools.predictive import Predictive, PredictiveLimits
from global_scheduler.pools.qhap import Qhap, QhapLimits
from global_scheduler.pools.static import Static

PoolsName = Literal["none", "static", "qhap", "predictive"]


@dataclass(frozen=True, slots=True)
class Regime:
    """How units are divided."""

    name: PoolsName
    new_controller: Callable[[], Controller]
    """One for each group of units, for each has a cooldown of its own."""
    num_long: int | None
    """Long units at the beginning, in each group; None: all."""
    min_long: int
    """When there are fewer because some have gone, short units take their place."""
    has_open_long: bool
    """Long units take short requests, too: only the short pool is kept free of the other class."""


@dataclass(frozen=True, slots=True)
class RegimeRules:
    """What regimes are made of."""

    num_long: int = 1
    """Of ``static``, and with which ``qhap`` begins."""
    qhap: QhapLimits = field(default_factory=QhapLimits)
    predictive: PredictiveLimits = field(default_factory=PredictiveLimits)


def regime(name: PoolsName, rules: RegimeRules, *, may_steal: bool) -> Regime | None:
    """The regime of that name; None divides nothing.

    Where long requests cannot be stolen somebody has to serve them: one long unit stays.
    """
    if name == "none":
        return None
    least = 0 if may_steal else 1
    if name == "static":
        num_long = max(rules.num_long, least)
        return Regime(name, Static, num_long, min(1, num_long), False)
    qhap = rules.qhap
    if name == "qhap":
        qhap = replace(qhap, min_long=max(qhap.min_long, least))
        num_long = max(rules.num_long, qhap.min_long)
        return Regime(name, lambda: Qhap(qhap), num_long, qhap.min_long, False)
    limits = rules.predictive
    qhap = replace(qhap, min_long=max(qhap.min_long, limits.min_long))
    return Regime(name, lambda: Predictive(limits, Qhap(qhap)), None, limits.min_long, True)
