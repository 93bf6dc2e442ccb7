"""Looks at the pools once an interval: who has come and gone, what splits would cost, who moves."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import anyio

from global_scheduler.late_binding import LateBinding
from global_scheduler.pool_metrics import PoolMetrics
from global_scheduler.pools.base import Demand, Move, SplitPrice
from global_scheduler.pools.book import Capacity, Models
from global_scheduler.pools.classes import class_by
from global_scheduler.pools.pricing import ClassOf, splits_to_price
from global_scheduler.pools.regimes import PoolsName, RegimeRules, regime
from global_scheduler.pools.stealing import Stealing
from global_scheduler.prospects import Prospect, prospect_of
from global_scheduler.queueing.tickets import NO_LIMIT
from global_scheduler.queueing.waiting import CLASSES, RequestClass
from global_scheduler.split_prices import Pricer
from global_scheduler.steal_permits import StealPermits
from global_scheduler.units import UnitRegistry

logger = logging.getLogger(__name__)

LOOKS_PER_LESSON = 10
"""The threshold is learnt less often than pools are looked at."""
KEPT_MOVES = 100


@dataclass(frozen=True, slots=True)
class MadeMove:
    """A move, when it was made and by whom."""

    time: float
    """UNIX seconds."""
    move: Move
    controller: str


class PoolControl:
    """Keeps the pools; the admin API changes its rules while it runs."""

    def __init__(
        self,
        units: UnitRegistry,
        late_binding: LateBinding,
        pricer: Pricer,
        permits: StealPermits,
        metrics: PoolMetrics,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        interval_s: float,
        rules: RegimeRules,
        learns_threshold: bool,
    ) -> None:
        """Controls nothing before ``divide``."""
        self.rules = rules
        self.learns_threshold = learns_threshold
        self.moves: deque[MadeMove] = deque(maxlen=KEPT_MOVES)
        """Oldest first."""
        self.prices: dict[Models, dict[int, SplitPrice]] = {}
        """By group and number of long units, at the last look; none where none were needed."""
        self._units = units
        self._late_binding = late_binding
        self._book = late_binding.book
        self._pricer = pricer
        self._permits = permits
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._interval_s = interval_s
        self._num_looks = 0

    @property
    def pools(self) -> PoolsName:
        """How units are divided."""
        return "none" if self._book.regime is None else self._book.regime.name

    def divide(self, pools: PoolsName | None = None, num_long: int | None = None) -> None:
        """Divide the units anew, by other rules where any are given."""
        if num_long is not None:
            self.rules = replace(self.rules, num_long=num_long)
        self._switch(pools or self.pools, anew=True)

    def steal(self, rule: Stealing) -> None:
        """Let units steal by this rule; they stay where they are."""
        self._permits.rule = rule
        self._switch(self.pools, anew=False)

    def set_threshold(self, threshold_tokens: float) -> None:
        """Requests of this many tokens are long from now on."""
        self._late_binding.classifier.set(threshold_tokens)
        self._reclassify()

    def move_by_hand(self, unit: str, pool: RequestClass) -> None:
        """Put a unit into a pool. Raises CannotMove."""
        self._book.assign(unit, pool)
        self._note(Move(unit, pool, "asked for"), "admin")
        self._late_binding.wake()

    async def run(self) -> None:
        """Look at the pools until cancelled."""
        while True:
            began_s = self._clock()
            try:
                await self.tick()
            except Exception:  # whatever it is, requests must not be left without pools for it
                logger.exception("the pools could not be looked at")
                self._metrics.failed()
            self._metrics.ticked(self._clock() - began_s)
            await anyio.sleep(self._interval_s)

    async def tick(self) -> None:
        """One look."""
        self.seat()
        present = {group.models for group in self._book.groups()}
        self.prices = {group: prices for group, prices in self.prices.items() if group in present}
        prospects = self._prospects(self._late_binding.classifier.class_of)
        await asyncio.gather(*map(self._control, prospects))
        self._num_looks += 1
        if self.learns_threshold and self._num_looks % LOOKS_PER_LESSON == 0:
            await self._learn()
        rooms = self._late_binding.rooms()
        self._metrics.seen(
            [room.pool for room in rooms],
            [(room.unit, room.limit) for room in rooms if room.limit < NO_LIMIT],
            self._late_binding.classifier.threshold_tokens,
        )

    def seat(self) -> None:
        """Take notice of the units that are there now."""
        registered = {unit.name for unit in self._units.all()}
        self._permits.forget_all_but(registered)
        capacity = [
            Capacity(unit.name, tuple(sorted(unit.models)), len(unit.outstanding))
            for unit in self._units.eligible(None)
        ]
        for move in self._book.seat(capacity, registered):
            self._note(move, "guard")
        self._late_binding.wake()

    async def _control(self, prospect: Prospect) -> None:
        demand = await self._demand(prospect)
        move = self._book.decide(prospect.group.models, demand, self._clock())
        if move is not None:
            self._note(move, self.pools)
            self._late_binding.wake()

    async def _demand(self, prospect: Prospect) -> Demand:
        """What the group has before it; with prices if there is anything to divide."""
        models, holding = prospect.group.models, self._late_binding.holding
        num_long = sum(prospect.class_of(one) == "long" for one in prospect.requests)
        queue_short, queue_long = (holding.num_waiting(name, models) for name in CLASSES)
        demand = Demand(queue_short, queue_long, num_long)
        self.prices.pop(models, None)
        if not num_long or not self._book.needs_prices(prospect.group):
            return demand
        splits = splits_to_price(prospect.num_long_units, len(prospect.group.units))
        cases = {number: prospect.case(number) for number in splits}
        prices = await self._pricer.price(prospect.units, cases, "prices")
        self.prices[models] = prices
        if prospect.num_long_units not in prices:
            self._metrics.unpriced()
        return replace(demand, prices=prices)

    async def _learn(self) -> None:
        """Let the threshold follow the group with most before it.

        Where all units serve both classes, it matters if one of them did not.
        """
        self.seat()
        prospects = self._prospects(self._late_binding.classifier.class_of)
        busiest = max(prospects, key=lambda one: len(one.requests), default=None)
        if busiest is None or not busiest.requests:
            return
        group, classifier = busiest.group, self._late_binding.classifier
        num_long_units = min(busiest.num_long_units, len(group.units) - 1)
        cases = {}
        for threshold in classifier.alternatives():
            class_of = partial(class_by, threshold)
            prospect = prospect_of(group, self._units, self._late_binding, class_of)
            cases[threshold] = prospect.case(num_long_units)
        prices = await self._pricer.price(busiest.units, cases, "threshold")
        if classifier.learn(prices):
            logger.info("requests are long from %.0f tokens on now", classifier.threshold_tokens)
            self._reclassify()

    def _prospects(self, class_of: ClassOf) -> list[Prospect]:
        groups = self._book.groups()
        return [prospect_of(group, self._units, self._late_binding, class_of) for group in groups]

    def _switch(self, pools: PoolsName, *, anew: bool) -> None:
        may_steal = self._permits.rule != "off"
        self._book.switch(regime(pools, self.rules, may_steal=may_steal), anew=anew)
        self.seat()

    def _reclassify(self) -> None:
        self._late_binding.holding.reclassify(self._late_binding.classifier.class_of)
        self._late_binding.wake()

    def _note(self, move: Move, controller: str) -> None:
        logger.info("unit %s is %s now (%s): %s", move.unit, move.to, controller, move.reason)
        self._metrics.moved(move, controller)
        self.moves.append(MadeMove(self._wall_clock(), move, controller))
