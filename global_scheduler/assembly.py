"""The parts of the gateway, made from its settings and joined."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from pydantic import SecretStr

from global_scheduler.backlogs import BacklogClient
from global_scheduler.bodies import GenerationRequest
from global_scheduler.carrying import carry
from global_scheduler.connection_pool import ConnectionPool
from global_scheduler.decisions import DecisionLog
from global_scheduler.dispatch import Dispatcher
from global_scheduler.exchange import Exchange
from global_scheduler.gateway import Gateway
from global_scheduler.generations import Generations
from global_scheduler.health import HealthChecker
from global_scheduler.ledger import Ledger
from global_scheduler.lengths import Lengths
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.observations import Observations
from global_scheduler.outcomes import Outcomes
from global_scheduler.pass_through import PassThrough
from global_scheduler.pool_metrics import BacklogMetrics
from global_scheduler.pool_parts import pool_parts
from global_scheduler.predictions import PredictionClient
from global_scheduler.prompt_tokens import PromptTokenCounter
from global_scheduler.provisioning.assembly import provisioning_loop
from global_scheduler.provisioning.standby import StandbyUnit
from global_scheduler.queue_metrics import QueueMetrics
from global_scheduler.quotas.limiter import Limiter
from global_scheduler.request_log import RequestLog
from global_scheduler.scheduling_parts import late_binding_of, routing_of
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import UnitRegistry
from global_scheduler.upstream import CONNECT_TIMEOUT_S, KEEPALIVE_S, Upstream


@dataclass(frozen=True, slots=True)
class Foundation:
    """What is there before the event loop runs."""

    units: UnitRegistry
    metrics: GatewayMetrics
    tokens: PromptTokenCounter
    lengths: Lengths
    request_log: RequestLog | None
    standby: list[StandbyUnit]
    limiter: Limiter


class Parts:
    """The running gateway."""

    def __init__(
        self, settings: GatewaySettings, base: Foundation, session: aiohttp.ClientSession
    ) -> None:
        clock = time.monotonic
        self.settings = settings
        self.base = base
        self.session = session
        self.engines = ConnectionPool(connect_timeout_s=CONNECT_TIMEOUT_S, idle_s=KEEPALIVE_S)
        self.ledger = Ledger(clock)
        self.log = DecisionLog()
        self.outcomes = Outcomes(base.metrics)
        self.queue_metrics = QueueMetrics(base.metrics.registry, clock)
        self.late_binding = late_binding_of(settings, base.units, self.queue_metrics, clock)
        deadline_s = settings.prediction_deadline_ms / 1e3
        self.sidecars = ConnectionPool(connect_timeout_s=deadline_s, idle_s=KEEPALIVE_S)
        self.predictions = PredictionClient(
            self.sidecars,
            self.ledger,
            self.outcomes,
            base.metrics,
            clock,
            deadline_s=deadline_s,
            window_s=settings.coalesce_ms / 1e3,
        )
        self.health = self._health()
        self.provisioning = provisioning_loop(
            settings,
            base.standby,
            base.units,
            self.health,
            self.log,
            self.late_binding,
            base.metrics.registry,
            session,
        )
        self.routing = routing_of(settings)
        self.pools = pool_parts(
            settings,
            base.units,
            self.late_binding,
            BacklogClient(session, self.ledger, BacklogMetrics(base.metrics.registry)),
            base.metrics.registry,
            lambda: self.routing.goal_defaults,
            clock=clock,
            wall_clock=time.time,
        )
        self.gateway = self._gateway(self._dispatcher())

    def background(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs beside the requests, until cancelled."""
        return [
            self.engines.run,
            self.sidecars.run,
            self.health.run,
            self.late_binding.run,
            self.provisioning.run,
            *self.pools.background(),
        ]

    async def close(self) -> None:
        """End what is under way."""
        await self.provisioning.close()
        await self.pools.close()
        await self.predictions.close()
        await self.base.limiter.close()

    def _health(self) -> HealthChecker:
        return HealthChecker(
            self.session,
            self.base.units,
            interval_s=self.settings.health_interval_s,
            timeout_s=self.settings.health_timeout_s,
            engine_api_key=secret(self.settings.engine_api_key),
        )

    def _dispatcher(self) -> Dispatcher:
        return Dispatcher(
            self.base.units,
            self.ledger,
            self.predictions,
            self.routing,
            self.log,
            self.base.metrics,
            clock=time.monotonic,
            wall_clock=time.time,
            rng=random.Random(self.settings.seed),
        )

    def _gateway(self, dispatcher: Dispatcher) -> Gateway:
        settings, base = self.settings, self.base
        upstream = Upstream(
            self.engines,
            read_timeout_s=settings.engine_timeout_s,
            engine_api_key=secret(settings.engine_api_key),
            forward_authorization=not settings.api_key,
        )
        observations = Observations(
            base.lengths,
            base.tokens,
            self.outcomes,
            base.metrics,
            self.queue_metrics,
            self.late_binding.rates,
            base.request_log,
        )
        self.generations = Generations(
            base.units,
            self.ledger,
            self.late_binding,
            dispatcher,
            base.lengths,
            base.tokens,
            observations,
            base.metrics,
            base.limiter,
            clock=time.monotonic,
            max_attempts=settings.max_attempts,
        )
        others = PassThrough(
            base.units,
            dispatcher,
            upstream,
            base.metrics,
            base.limiter,
            max_body_bytes=settings.max_body_bytes,
        )

        async def generate(exchange: Exchange, request: GenerationRequest, body: bytes) -> None:
            await self.generations.serve(
                exchange, request, partial(carry, upstream, exchange, body)
            )

        return Gateway(
            generate,
            others,
            partial(base.metrics.request_ended, "none"),
            max_body_bytes=settings.max_body_bytes,
            api_keys=tuple(key.get_secret_value() for key in settings.api_key),
        )


def secret(value: SecretStr | None) -> str | None:
    """Its text."""
    return None if value is None else value.get_secret_value()
