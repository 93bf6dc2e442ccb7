"""Whether a unit can meet a request's goals, and what to do when none can. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from global_scheduler.queueing.waiting import Waiting

Miss = Literal["best_effort", "wait", "shed"]
"""When no unit is predicted to meet the goals: send it anyway; wait for one as long as the goal
could still be met; refuse requests below ``shed_below`` and send the others anyway."""
Headroom = Literal["policy", "least", "most"]
"""Among units that meet the goals: the policy's choice, the one with the least to spare (packs
units tightly and keeps others free), or the one with the most."""
Verdict = Literal["send", "wait", "shed"]


class Forecast(msgspec.Struct, frozen=True):
    """What a request would meet on a unit, in seconds from now."""

    unit: str
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What to do about goals."""

    miss: Miss = "shed"
    shed_below: int = 0
    """Requests of lesser importance may be refused."""
    headroom: Headroom = "policy"


class Admission(msgspec.Struct, frozen=True):
    """The verdict, and the units to choose among if it is ``send``; none named: any."""

    verdict: Verdict
    units: tuple[str, ...]
    meets_goals: bool
    num_able: int = 0
    """Units that are predicted to meet the goals, where there are any."""


ANY_UNIT = Admission("send", (), meets_goals=True)
"""Nothing is known that speaks against any of them."""


def admit(
    waiting: Waiting,
    forecasts: Sequence[Forecast],
    rules: AdmissionRules,
    now_s: float,
    *,
    num_unknown: int = 0,
) -> Admission:
    """Judge one request by what units predict; ``forecasts`` has those that answered.

    Without a goal it is sent. It is not held back or refused as long as the forecasts of
    ``num_unknown`` other units are missing: they might meet its goals.
    """
    if not (waiting.has_goals and forecasts):
        return ANY_UNIT
    spare = {forecast.unit: headroom(waiting, forecast, now_s) for forecast in forecasts}
    able = [unit for unit in spare if spare[unit] >= 0.0]
    num_able = len(able)
    if able:
        if rules.headroom != "policy":
            pick = min if rules.headroom == "least" else max
            able = [pick(able, key=lambda unit: (spare[unit], unit))]
        return Admission("send", tuple(able), meets_goals=True, num_able=num_able)
    if num_unknown:
        return Admission("send", (), meets_goals=False)
    if rules.miss == "shed" and waiting.importance < rules.shed_below:
        return Admission("shed", (), meets_goals=False)
    if rules.miss == "wait" and now_s < waiting.deadline_s < float("inf"):
        return Admission("wait", (), meets_goals=False)
    return Admission("send", (), meets_goals=False)


def headroom(waiting: Waiting, forecast: Forecast, now_s: float) -> float:
    """The share of its tighter goal that a request leaves unused; negative if it misses one."""
    spare = float("inf")
    if waiting.ttft_goal_s is not None:
        spare = 1.0 - (now_s + forecast.ttft_s - waiting.arrived_s) / waiting.ttft_goal_s
    if waiting.tpot_goal_s is not None:
        spare = min(spare, 1.0 - forecast.tpot_s / waiting.tpot_goal_s)
    return spare
