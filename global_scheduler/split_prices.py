"""Prices splits of units, and thresholds, by asking the units' sidecars."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from global_scheduler.backlogs import Backlogs
from global_scheduler.pool_metrics import Purpose
from global_scheduler.pools.base import SplitPrice
from global_scheduler.pools.pricing import ClassOf, ShareForecast, Shares, price
from global_scheduler.units import Unit

Key = TypeVar("Key")
Question = tuple[str, tuple[str, ...]]
"""A unit and the ids of the requests that it would get."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way of sharing out what is to come."""

    shares: Shares
    class_of: ClassOf


class Pricer:
    """Asks about every distinct share once, all at the same time."""

    def __init__(
        self,
        backlogs: Backlogs,
        limit_of: Callable[[Unit], int],
        clock: Callable[[], float],
        *,
        deadline_s: float,
    ) -> None:
        self._backlogs = backlogs
        self._limit_of = limit_of
        self._clock = clock
        self._deadline_s = deadline_s

    async def price(
        self, units: Mapping[str, Unit], cases: Mapping[Key, Case], purpose: Purpose
    ) -> dict[Key, SplitPrice]:
        """The price of each case for which all answers came in time."""
        asked_s = self._clock()
        questions = {
            question: case.shares[question[0]]
            for case in cases.values()
            for question in _questions(case.shares)
        }
        answers = await asyncio.gather(
            *(
                self._backlogs.try_ask(
                    units[unit],
                    share,
                    purpose,
                    limit=self._limit_of(units[unit]),
                    deadline_s=self._deadline_s,
                )
                for (unit, _), share in questions.items()
            )
        )
        forecasts = {
            question: ShareForecast(
                [item.ttft_ms / 1e3 for item in answer.requests],
                answer.drain_ms / 1e3,
                answer.num_slo_broken,
            )
            for question, answer in zip(questions, answers, strict=True)
            if answer is not None
        }
        return {
            key: price(
                case.shares,
                {question[0]: forecasts[question] for question in _questions(case.shares)},
                case.class_of,
                asked_s,
            )
            for key, case in cases.items()
            if all(question in forecasts for question in _questions(case.shares))
        }


def _questions(shares: Shares) -> list[Question]:
    """Those that would get nothing need not be asked."""
    return [
        (unit, tuple(one.request_id for one in share)) for unit, share in shares.items() if share
    ]
