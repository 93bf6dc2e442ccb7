"""Puts the gateway together: the data path beside a FastAPI application for everything else."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import aiohttp
import anyio
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from global_scheduler.admin import admin_router, require_token
from global_scheduler.admission import AdmissionRules
from global_scheduler.decisions import DecisionLog
from global_scheduler.dispatch import Dispatcher, Routing
from global_scheduler.errors import BadRequest, GatewayError, NotFound
from global_scheduler.gateway import Gateway
from global_scheduler.generations import Generations
from global_scheduler.health import HealthChecker
from global_scheduler.late_binding import LateBinding
from global_scheduler.ledger import Ledger
from global_scheduler.lengths import Lengths, open_estimator
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.observations import Observations
from global_scheduler.outcomes import Outcomes
from global_scheduler.policies import POLICIES
from global_scheduler.pools.book import PoolBook
from global_scheduler.pools.classes import Classifier
from global_scheduler.predictions import PredictionClient
from global_scheduler.prompt_tokens import EstimatingCounter, PromptTokenCounter, TokenizerCounter
from global_scheduler.queue_metrics import QueueMetrics
from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.holding import Holding
from global_scheduler.request_log import RequestLog
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import Unit, UnitRegistry, new_unit, parse_unit
from global_scheduler.upstream import Upstream
from wire.host_config import load_host_configs

FIRST_LIMIT = 8
"""AdaSplit's; where limits are derived, until the first one is."""
KEEPALIVE_S = 4.0
"""Shorter than uvicorn's and vLLM's 5 s, so that the gateway closes idle connections first."""


class App:
    """``/v1/*`` goes to the gateway, everything else to FastAPI."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.units = UnitRegistry(_configured_units(settings))
        self.metrics = GatewayMetrics()
        self._settings = settings
        self._tokens = _token_counter(settings)
        estimator = open_estimator(settings.length_estimator, settings.length_deadline_ms / 1e3)
        self._lengths = Lengths(estimator, self.metrics.registry, time.monotonic)
        self._request_log = _request_log(settings, self.metrics)
        self._gateway: Gateway | None = None
        self._control = FastAPI(
            title="Astrolabe global scheduler", lifespan=self._lifespan, openapi_url="/openapi.json"
        )
        _add_error_handlers(self._control)
        self._add_routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/") and self._gateway:
            await self._gateway(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    def _add_routes(self) -> None:
        @self._control.get("/health")
        async def health() -> dict[str, int]:
            """200 while the gateway runs; how many units take requests."""
            return {"units": len(self.units.all()), "healthy": len(self.units.eligible(None))}

        @self._control.get("/metrics")
        async def metrics() -> Response:
            """Prometheus metrics."""
            return Response(self.metrics.render(self.units), media_type="text/plain; version=0.0.4")

    @asynccontextmanager
    async def _lifespan(self, control: FastAPI) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=60)
        async with (
            nullcontext() if self._request_log is None else self._request_log,
            self._lengths.running(),
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        ):
            predictions, health, late_binding = self._assemble(session)
            await health.check_all()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(health.run)
                tasks.start_soon(late_binding.run)
                yield
                tasks.cancel_scope.cancel()
            await predictions.close()

    def _assemble(
        self, session: aiohttp.ClientSession
    ) -> tuple[PredictionClient, HealthChecker, LateBinding]:
        settings, clock = self._settings, time.monotonic
        ledger, log, outcomes = Ledger(clock), DecisionLog(), Outcomes(self.metrics)
        predictions = PredictionClient(
            session,
            ledger,
            outcomes,
            self.metrics,
            clock,
            deadline_s=settings.prediction_deadline_ms / 1e3,
            window_s=settings.coalesce_ms / 1e3,
        )
        health = HealthChecker(
            session,
            self.units,
            interval_s=settings.health_interval_s,
            timeout_s=settings.health_timeout_s,
            engine_api_key=_secret(settings.engine_api_key),
        )
        routing = Routing(
            POLICIES[settings.policy],
            settings.num_query_predictors,
            AdmissionRules(settings.slo_miss, settings.shed_below, settings.slo_headroom),
        )
        queue_metrics = QueueMetrics(self.metrics.registry, clock)
        late_binding = _late_binding(settings, self.units, queue_metrics)
        dispatcher = Dispatcher(
            self.units,
            ledger,
            predictions,
            routing,
            log,
            self.metrics,
            clock=clock,
            wall_clock=time.time,
            rng=random.Random(settings.seed),
        )
        self._gateway = self._make_gateway(
            session, ledger, late_binding, dispatcher, outcomes, queue_metrics
        )
        guard = require_token(_secret(settings.admin_token), is_loopback=settings.is_loopback)
        self._control.include_router(
            admin_router(self.units, routing, log, health, self._lengths, guard)
        )
        return predictions, health, late_binding

    def _make_gateway(
        self,
        session: aiohttp.ClientSession,
        ledger: Ledger,
        late_binding: LateBinding,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        queue_metrics: QueueMetrics,
    ) -> Gateway:
        settings = self._settings
        upstream = Upstream(
            session,
            read_timeout_s=settings.engine_timeout_s,
            engine_api_key=_secret(settings.engine_api_key),
        )
        generations = Generations(
            self.units,
            ledger,
            late_binding,
            dispatcher,
            upstream,
            self._lengths,
            self._tokens,
            Observations(
                self._lengths,
                self._tokens,
                outcomes,
                self.metrics,
                queue_metrics,
                late_binding.rates,
                self._request_log,
            ),
            self.metrics,
            clock=time.monotonic,
            goal_defaults=settings.goal_defaults,
            max_attempts=settings.max_attempts,
            forward_authorization=not settings.api_key,
        )
        return Gateway(
            self.units,
            dispatcher,
            upstream,
            generations,
            self.metrics,
            max_body_bytes=settings.max_body_bytes,
            api_keys=tuple(key.get_secret_value() for key in settings.api_key),
        )


def create_app(settings: GatewaySettings) -> App:
    """The gateway as an ASGI application.

    Raises:
        BadRequest: a unit cannot be parsed.
        ConfigError: the host configuration cannot be used.
        OSError: the tokenizer is not there, or the request log cannot be opened.
        ModelFolderError: the length estimator cannot be used.
    """
    return App(settings)


def _configured_units(settings: GatewaySettings) -> list[Unit]:
    units = [parse_unit(text) for text in settings.unit]
    if settings.hosts is not None:
        units += [
            new_unit(address.name, address.engine_url, address.predictor_url)
            for address in load_host_configs(settings.hosts).units()
        ]
    return units


def _late_binding(
    settings: GatewaySettings, units: UnitRegistry, metrics: QueueMetrics
) -> LateBinding:
    limit = settings.worker_concurrency_limit
    return LateBinding(
        units,
        Holding(
            ORDERS[settings.queue_order],
            max_requests=settings.max_queued_requests,
            max_age_s=settings.max_queue_age_s,
            max_overtakes=settings.max_overtakes,
        ),
        PoolBook(None),
        Classifier(),
        metrics,
        clock=time.monotonic,
        default_limit=FIRST_LIMIT if limit == "auto" else limit,
    )


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _token_counter(settings: GatewaySettings) -> PromptTokenCounter:
    if settings.tokenizer is None:
        return EstimatingCounter()
    return TokenizerCounter(settings.tokenizer)


def _request_log(settings: GatewaySettings, metrics: GatewayMetrics) -> RequestLog | None:
    if settings.request_log is None:
        return None
    return RequestLog(
        settings.request_log,
        max_bytes=settings.request_log_max_bytes,
        on_loss=metrics.request_log_lost,
    )


def _add_error_handlers(control: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        known = error if isinstance(error, GatewayError) else _translated(error)
        return Response(known.body(), known.status, media_type="application/json")

    for kind in (GatewayError, RequestValidationError, HTTPException):
        control.add_exception_handler(kind, answer)


def _translated(error: Exception) -> GatewayError:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][1:])
        return BadRequest(f"{key}: {first['msg']} (got {first.get('input')!r})", param=key or None)
    assert isinstance(error, HTTPException)
    known = (
        NotFound(str(error.detail)) if error.status_code == 404 else BadRequest(str(error.detail))
    )
    known.status = error.status_code
    return known
