"""Llumnix's migration of running requests (Sun et al., OSDI 2024), which vLLM's units cannot.

Units with few free blocks for each request hand one to those with many, the shortest first. Its KV
is copied while it goes on decoding; only the last blocks are copied while it stands still. Nobody
pays for the network's bandwidth that this takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exp.study.records import RequestRecord
from exp.twin.fleet import TwinFleet
from exp.twin.units import UnitSpec
from global_scheduler.ledger import Ledger, sent_request
from global_scheduler.units import Unit, UnitRegistry

INTERVAL_S = 0.5
"""Between two looks at the units' loads; each lets a pair of units move one request."""
LOW_FREENESS = 3.0
"""Free blocks for each request, as Llumnix counts steps: with fewer a unit hands requests over."""
NETWORK_BYTES_PER_S = 8e9
"""64 Gb/s, as between the machines on which Llumnix was measured."""
STILL_S = 0.02
"""How long a request stands still: Llumnix reports 20 to 30 ms, whatever its length."""


@dataclass(slots=True)
class Underway:
    """A request on a unit."""

    record: RequestRecord
    unit: Unit


class Migration:
    """Moves requests for as long as it runs."""

    def __init__(
        self,
        fleet: TwinFleet,
        specs: dict[str, UnitSpec],
        units: UnitRegistry,
        ledger: Ledger,
        underway: Mapping[int, Underway],
        clock: Callable[[], float],
    ) -> None:
        """``underway`` are the requests on units, by index."""
        self._fleet = fleet
        self._specs = specs
        self._units = units
        self._ledger = ledger
        self._underway = underway
        self._clock = clock
        self._moving = set[int]()
        self._moves = set[asyncio.Task[None]]()

    async def run(self) -> None:
        """Look at the units until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            names = [unit.name for unit in self._units.eligible(None)]
            freeness = {name: self._fleet.sidecars[name].freeness() for name in names}
            names.sort(key=freeness.__getitem__)
            poor = [name for name in names if freeness[name] < LOW_FREENESS]
            rich = names[len(poor) :]
            for source, target in zip(poor, reversed(rich), strict=False):
                self._begin(source, target)

    def _begin(self, source: str, target: str) -> None:
        spec = self._specs[source]
        running = self._fleet.running(source)
        able = [(tokens, index) for index, tokens in running if index not in self._moving]
        if len(running) < 2 or not able:
            return
        num_tokens, index = min(able)
        copy_s = num_tokens * kv_bytes_per_token(spec) / NETWORK_BYTES_PER_S
        self._moving.add(index)
        task = asyncio.ensure_future(self._move(index, source, target, copy_s))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _move(self, index: int, source: str, target: str, copy_s: float) -> None:
        try:
            await asyncio.sleep(copy_s)
            still_there = any(index == one for one, _ in self._fleet.running(source))
            if not still_there or self._fleet.is_down(target):
                return
            one, new = self._underway[index], self._units.get(target)
            entry = self._ledger.moved(one.record.request_id, one.unit, new)
            one.unit, one.record.unit = new, target
            one.record.num_migrations += 1
            await self._fleet.move(index, target, sent_request(entry, self._clock()), STILL_S)
        finally:
            self._moving.discard(index)


def kv_bytes_per_token(spec: UnitSpec) -> int:
    """Keys and values of all layers, two bytes a number."""
    model = spec.model
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * 2
