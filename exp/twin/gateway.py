"""The gateway's own parts on simulated time: queues, tickets, policies and pools as they run live.

Only what touches sockets is another: requests come from a workload, units are those of
``fleet.py``, and health is known by the live rules without anybody asking.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from exp.study.case import Case
from exp.study.records import RequestRecord
from exp.twin.beliefs import Beliefs
from exp.twin.fleet import Flight, TwinBacklogs, TwinFleet, TwinPredictions
from exp.twin.migration import Migration, Underway
from exp.twin.provisioning import TwinHealth, provisioning
from exp.twin.requests import empty_record, engine_request, is_good, job_of
from exp.twin.units import UnitSpec
from exp.workloads.request import BLOCK_TOKENS, WorkloadRequest
from global_scheduler.attempts import Attempts
from global_scheduler.decisions import Decision, DecisionLog
from global_scheduler.dispatch import Dispatcher
from global_scheduler.errors import GatewayError, TooManyRequests, UpstreamFailed
from global_scheduler.job import Job
from global_scheduler.ledger import Ledger, sent_request
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.pool_parts import pool_parts
from global_scheduler.queue_metrics import QueueMetrics
from global_scheduler.queueing.tickets import Ticket
from global_scheduler.scheduling_parts import late_binding_of, routing_of
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import Unit, UnitRegistry
from global_scheduler.upstream import UnitFailed
from wire.prediction import EndedRequest, SentRequest


class TwinGateway:
    """Serves a workload on a fleet."""

    def __init__(
        self,
        case: Case,
        settings: GatewaySettings,
        specs: list[UnitSpec],
        fleet: TwinFleet,
        beliefs: Beliefs,
    ) -> None:
        clock = asyncio.get_running_loop().time
        self._case, self._fleet, self._beliefs = case, fleet, beliefs
        self._clock = clock
        self._model = specs[0].model.model_name
        self._max_model_len = specs[0].limits.max_model_len
        num_present = len(specs) - case.fleet.num_standby
        units = self._units = _units_of(specs[:num_present])
        ledger = self._ledger = Ledger(clock)
        metrics, log = GatewayMetrics(), DecisionLog()
        queue_metrics = QueueMetrics(metrics.registry, clock)
        late_binding = self._late_binding = late_binding_of(settings, units, queue_metrics, clock)
        self._predictions = TwinPredictions(fleet)
        self._dispatcher = _dispatcher_of(
            settings, units, ledger, self._predictions, log, metrics, clock, case.seed
        )
        self._attempts = Attempts(units, late_binding, self._dispatcher, settings.max_attempts)
        self._underway: dict[int, Underway] = {}
        by_name = {spec.name: spec for spec in specs}
        self._migration = Migration(fleet, by_name, units, ledger, self._underway, clock)
        self._health = _health_of(settings, specs, fleet, units)
        self._provisioning = provisioning(
            settings,
            [spec.name for spec in specs[num_present:]],
            case.fleet.standby_start_s,
            fleet,
            units,
            self._health,
            log,
            late_binding,
            metrics.registry,
            clock,
        )
        self._pools = pool_parts(
            settings,
            units,
            late_binding,
            TwinBacklogs(fleet),
            metrics.registry,
            lambda: settings.goal_defaults,
            clock=clock,
            wall_clock=clock,
        )

    def background(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs beside the requests, until cancelled."""
        moves = [self._migration.run] if self._case.twin.migration == "llumnix" else []
        return [
            *moves,
            self._health.run,
            self._late_binding.run,
            self._provisioning.run,
            *self._pools.background(),
        ]

    async def close(self) -> None:
        """End what is under way."""
        await self._pools.close()
        await self._provisioning.close()

    async def warm_up(self) -> None:
        """Until all units are known to be healthy."""
        for unit in self._units.all():
            await self._health.check(unit)

    async def serve(self, index: int, request: WorkloadRequest) -> RequestRecord:
        """Answer one request, which arrives now."""
        goals = self._case.goals_of(request.request_class)
        length = self._beliefs.estimate(self._model, request)
        defaults = self._dispatcher.routing.goal_defaults
        job = job_of(request, self._model, self._clock(), length, goals, defaults)
        record = empty_record(request, job)
        attempt = partial(self._attempt, index, request, job, record)
        try:
            await self._attempts.until_answered(job, attempt)
        except TooManyRequests:
            record.outcome = "rejected"
        except GatewayError:
            record.outcome = "failed"
        return record

    async def _attempt(
        self,
        index: int,
        request: WorkloadRequest,
        job: Job,
        record: RequestRecord,
        unit: Unit,
        decision: Decision,
        ticket: Ticket,
        may_retry: bool,
    ) -> None:
        record.decision_ms = self._predictions.took_s.pop(job.request_id, 0.0) * 1e3
        record.is_stolen = ticket.is_stolen
        try:
            await self._try_unit(index, request, unit, job, record, decision)
        except UnitFailed as failure:
            if failure.refused:
                unit.refused(str(failure))
            if record.ttft_ms is not None:
                raise UpstreamFailed("the answer broke off") from failure
            raise

    async def _try_unit(
        self,
        index: int,
        request: WorkloadRequest,
        unit: Unit,
        job: Job,
        record: RequestRecord,
        decision: Decision,
    ) -> None:
        sent_s, record.unit = self._clock(), unit.name
        self._underway[index] = Underway(record, unit)
        seen_by_engine = engine_request(index, request, self._max_model_len)
        try:
            flight = await self._fleet.send(unit.name, seen_by_engine, self._sent(job))
            await self._follow(flight, unit, job, record, decision, sent_s)
        finally:
            unit = self._underway.pop(index).unit  # migration may have taken it elsewhere
            self._ledger.ended(unit, job.request_id)
            self._late_binding.wake()

    async def _follow(
        self,
        flight: Flight,
        unit: Unit,
        job: Job,
        record: RequestRecord,
        decision: Decision,
        sent_s: float,
    ) -> None:
        """Until the answer has ended, and what it teaches."""
        record.waited_ms = decision.waited_ms
        record.predicted_ttft_ms = decision.predicted_ttft_ms
        record.predicted_e2e_ms = decision.predicted_e2e_ms
        await flight.first_token
        first_s = self._clock()
        record.ttft_ms = (first_s - job.arrived_s) * 1e3
        self._ledger.streamed(unit, job.request_id, 1)
        end = await flight.end
        ended_s, num_tokens = self._clock(), end.num_output_tokens
        record.outcome = "ok"
        record.e2e_ms = (ended_s - job.arrived_s) * 1e3
        record.num_output_tokens = num_tokens
        record.num_cached_tokens = end.num_cached_tokens
        record.num_preemptions = end.num_preemptions
        if num_tokens > 1:
            record.tpot_ms = (record.e2e_ms - record.ttft_ms) / (num_tokens - 1)
        record.is_good = is_good(record, self._case.goals_of(record.request_class))
        decision.status, decision.observed_output_tokens = 200, num_tokens
        decision.observed_ttft_ms, decision.observed_e2e_ms = record.ttft_ms, record.e2e_ms
        self._late_binding.rates.learn(
            job.num_prompt_tokens, num_tokens, first_s - sent_s, ended_s - sent_s
        )
        self._beliefs.observe(self._model, num_tokens)
        if decision.predicted_ttft_ms is not None and not record.num_migrations:
            outcome = EndedRequest(
                request_id=job.request_id,
                ttft_ms=(first_s - sent_s) * 1e3,
                e2e_ms=(ended_s - sent_s) * 1e3,
                num_output_tokens=num_tokens,
            )
            self._fleet.sidecars[unit.name].observe([outcome])

    def _sent(self, job: Job) -> SentRequest:
        return sent_request(self._ledger.entry(job.request_id), self._clock())


def _units_of(specs: Sequence[UnitSpec]) -> UnitRegistry:
    urls = [(spec.name, f"http://{spec.name}") for spec in specs]
    return UnitRegistry(Unit(name, url, url) for name, url in urls)


def _dispatcher_of(
    settings: GatewaySettings,
    units: UnitRegistry,
    ledger: Ledger,
    predictions: TwinPredictions,
    log: DecisionLog,
    metrics: GatewayMetrics,
    clock: Callable[[], float],
    seed: int,
) -> Dispatcher:
    return Dispatcher(
        units,
        ledger,
        predictions,
        routing_of(settings),
        log,
        metrics,
        clock=clock,
        wall_clock=clock,
        rng=random.Random(seed),
    )


def _health_of(
    settings: GatewaySettings, specs: Sequence[UnitSpec], fleet: TwinFleet, units: UnitRegistry
) -> TwinHealth:
    model = specs[0].model.model_name
    return TwinHealth(
        fleet,
        units,
        {model: {"id": model}},
        {spec.name: _cache_blocks(spec) for spec in specs},
        interval_s=settings.health_interval_s,
    )


def _cache_blocks(spec: UnitSpec) -> int:
    """As an engine's metrics tell it; 0 without a cache."""
    limits = spec.limits
    num_tokens = limits.num_gpu_blocks * limits.block_size
    return num_tokens // BLOCK_TOKENS if limits.enable_prefix_caching else 0
