"""The twin's units under the gateway: engines that play on while it waits, and their sidecars."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from exp.twin.engines import FIRST_TOKEN, EngineEvent, EngineRequest, Engines
from exp.twin.sidecar import LoadedQuestions, TwinSidecar
from global_scheduler.pool_metrics import Purpose
from global_scheduler.predictions import NOTHING_CACHED, Answer
from global_scheduler.queueing.waiting import Waiting
from global_scheduler.units import Unit
from global_scheduler.upstream import UnitFailed
from wire.prediction import BacklogPrediction, BacklogRequest, PredictRequest, SentRequest


class Flight:
    """A request on an engine: two moments to wait for."""

    __slots__ = ("end", "first_token", "index", "unit")

    def __init__(self, unit: int, index: int, loop: asyncio.AbstractEventLoop) -> None:
        self.unit, self.index = unit, index
        self.first_token: asyncio.Future[EngineEvent] = loop.create_future()
        self.end: asyncio.Future[EngineEvent] = loop.create_future()

    def fail(self, reason: str) -> None:
        """Its unit is gone."""
        for future in (self.first_token, self.end):
            if not future.done():
                future.set_exception(UnitFailed(reason))
                future.exception()  # not everybody waits for both


class TwinFleet:
    """The world of the virtual loop. What engines do is seen ``network_s`` later."""

    def __init__(
        self, engines: Engines, sidecars: Sequence[TwinSidecar], names: Sequence[str], *,
        network_s: float,
    ) -> None:  # fmt: skip
        self.engines = engines
        self.sidecars = dict(zip(names, sidecars, strict=True))
        self.network_s = network_s
        self._index_of = {name: index for index, name in enumerate(names)}
        self._by_index = list(sidecars)
        self._down: set[int] = set()
        self._flights: dict[int, Flight] = {}

    def advance(self, until_s: float) -> float:
        """Let engines play; see ``clock.World``."""
        events = self.engines.advance(until_s)
        for event in events:
            self._note(event)
        return self.engines.now_s if events else until_s

    async def send(self, unit: str, request: EngineRequest, sent: SentRequest) -> Flight:
        """Give an engine a request; raises UnitFailed if it is down."""
        await asyncio.sleep(self.network_s)
        index = self._index_of[unit]
        if index in self._down:
            raise UnitFailed("connection refused", refused=True)
        flight = Flight(index, request.index, asyncio.get_running_loop())
        self._flights[request.index] = flight
        self._by_index[index].sent(request.index, sent)
        self.engines.add(index, request)
        return flight

    def running(self, unit: str) -> list[tuple[int, int]]:
        """Index and computed tokens of the requests that a unit runs."""
        return self.engines.running(self._index_of[unit])

    async def move(self, index: int, unit: str, sent: SentRequest, still_s: float) -> None:
        """Take a request from its engine now and put it, with its KV, into another a bit later."""
        flight = self._flights[index]
        moved = self.engines.take(flight.unit, index)
        self._by_index[flight.unit].ended(index)
        flight.unit = self._index_of[unit]
        self._by_index[flight.unit].sent(index, sent)
        await asyncio.sleep(still_s)
        if flight.unit in self._down:
            del self._flights[index]
            self._by_index[flight.unit].ended(index)
            flight.fail("connection reset")
        else:
            self.engines.put(flight.unit, moved)

    def fail(self, unit: str) -> None:
        """An engine dies with all it has."""
        index = self._index_of[unit]
        self._down.add(index)
        for lost in self.engines.fail(index):
            self._by_index[index].ended(lost)
            self._flights.pop(lost).fail("connection reset")

    def recover(self, unit: str) -> None:
        """It is there again, empty."""
        index = self._index_of[unit]
        self.engines.recover(index)
        self._down.discard(index)

    def is_down(self, unit: str) -> bool:
        """Whether it refuses connections."""
        return self._index_of[unit] in self._down

    def _note(self, event: EngineEvent) -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(event.time_s + self.network_s, self._show, event)

    def _show(self, event: EngineEvent) -> None:
        """The gateway sees an event; its unit may have failed since."""
        flight = self._flights.get(event.index)
        if flight is None:
            return
        sidecar = self._by_index[flight.unit]
        if event.kind == FIRST_TOKEN:
            sidecar.first_token(event.index)
            _tell(flight.first_token, event)
            return
        sidecar.ended(event.index)
        del self._flights[event.index]
        # Timers that are due together may come in any order.
        _tell(flight.first_token, event)
        _tell(flight.end, event)


def _tell(future: asyncio.Future[EngineEvent], event: EngineEvent) -> None:
    """Unless it is told already, or nobody waits any more since the run is being ended."""
    if not future.done():
        future.set_result(event)


class TwinPredictions:
    """Asks the sidecars of the twin as the gateway does: all of them at a moment."""

    def __init__(self, fleet: TwinFleet) -> None:
        self._fleet = fleet
        self.took_s: dict[str, float] = {}
        """Of this machine's time, in a request's last what-ifs."""

    async def ask(
        self,
        units: Sequence[Unit],
        question: PredictRequest,
        *,
        simulate: bool,
        num_cached_tokens: Mapping[str, int] = NOTHING_CACHED,
        cost_to_others: bool = False,
    ) -> dict[str, Answer]:
        """See ``global_scheduler.predictions.Predictions``."""
        loop, network_s = asyncio.get_running_loop(), self._fleet.network_s
        asked_at_s = loop.time()
        await asyncio.sleep(network_s)
        began_s, answers, loaded = time.perf_counter(), {}, LoadedQuestions()
        for unit in units:
            if self._fleet.is_down(unit.name):
                continue
            question.num_cached_tokens = num_cached_tokens.get(unit.name, 0)
            (prediction,) = self._fleet.sidecars[unit.name].predict(
                [question], simulate=simulate, cost_to_others=cost_to_others, loaded=loaded
            )
            answers[unit.name] = Answer(prediction, asked_at_s)
        self.took_s[question.request_id] = time.perf_counter() - began_s
        await asyncio.sleep(network_s)
        return answers


class TwinBacklogs:
    """See ``global_scheduler.backlogs.Backlogs``."""

    def __init__(self, fleet: TwinFleet) -> None:
        self._fleet = fleet

    async def try_ask(
        self,
        unit: Unit,
        requests: Sequence[Waiting],
        purpose: Purpose,
        *,
        limit: int,
        deadline_s: float,
    ) -> BacklogPrediction | None:
        """What if the unit got these requests?"""
        await asyncio.sleep(self._fleet.network_s)
        if self._fleet.is_down(unit.name):
            return None
        questions = [
            PredictRequest(
                request_id=one.request_id,
                num_prompt_tokens=max(1, one.num_prompt_tokens),
                expected_output_tokens=one.expected_output_tokens,
            )
            for one in requests
        ]
        backlog = BacklogRequest(requests=questions, max_num_seqs=limit)
        answer = self._fleet.sidecars[unit.name].drain(backlog)
        await asyncio.sleep(self._fleet.network_s)
        return answer
