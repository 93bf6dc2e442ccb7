"""Puts the gateway together: the data path beside a FastAPI application for everything else."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import aiohttp
import anyio
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from global_scheduler.admin import admin_router, settings_router
from global_scheduler.admin_guard import AdminGuard
from global_scheduler.assembly import Foundation, Parts, secret
from global_scheduler.dashboard import dashboard_router
from global_scheduler.effects.live import running_of
from global_scheduler.effects.rules import without_effect
from global_scheduler.errors import BadRequest, GatewayError, NotFound
from global_scheduler.exchange import check_host
from global_scheduler.gateway import Gateway
from global_scheduler.lengths import Lengths, open_estimator
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.prompt_tokens import EstimatingCounter, PromptTokenCounter, TokenizerCounter
from global_scheduler.provisioning.admin import provisioning_router
from global_scheduler.provisioning.standby import load_standby_units
from global_scheduler.quotas.admin import quotas_router
from global_scheduler.quotas.assembly import open_limiter
from global_scheduler.request_log import RequestLog
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import Unit, UnitRegistry, new_unit, parse_unit
from global_scheduler.upstream import KEEPALIVE_S
from global_scheduler.workers.messages import Configured
from global_scheduler.workers.processes import Workers
from wire.host_config import load_host_configs

logger = logging.getLogger(__name__)


class App:
    """``/v1/*`` goes to the gateway, everything else to FastAPI."""

    def __init__(self, settings: GatewaySettings, workers: Workers | None = None) -> None:
        self.units = UnitRegistry(_configured_units(settings))
        self.metrics = GatewayMetrics()
        self._settings = settings
        self._workers = workers
        self._base = _foundation(settings, self.units, self.metrics)
        self._gateway: Gateway | None = None
        self._control = FastAPI(
            title="Astrolabe global scheduler", lifespan=self._lifespan, openapi_url="/openapi.json"
        )
        self._front = self._control if workers else self._guarded()
        _add_error_handlers(self._control)
        self._add_routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/") and self._gateway:
            await self._gateway(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_host(scope)
        except BadRequest as error:
            await _error_answer(error)(scope, receive, send)
        else:
            await self._front(scope, receive, send)

    def _guarded(self) -> ASGIApp:
        """Where there are workers, they guard: nobody else reaches the scheduler's socket."""
        token = secret(self._settings.admin_token)
        return AdminGuard(self._control, token, is_loopback=self._settings.is_loopback)

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
            self._base.request_log or nullcontext(),
            self._base.lengths.running(),
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        ):
            parts = Parts(self._settings, self._base, session)
            self._add_admin(parts)
            await parts.health.check_all()
            for idle in without_effect(running_of(parts)):
                logger.warning("%s", idle)
            self._gateway = parts.gateway
            async with anyio.create_task_group() as tasks:
                for task in parts.background():
                    tasks.start_soon(task)
                async with self._working(parts):
                    yield
                tasks.cancel_scope.cancel()
            await parts.close()

    def _working(self, parts: Parts) -> AbstractAsyncContextManager[None]:
        if self._workers is None:
            return nullcontext()
        settings = self._settings
        hello = Configured(
            settings.max_body_bytes,
            tuple(key.get_secret_value() for key in settings.api_key),
            secret(settings.engine_api_key),
            settings.engine_timeout_s,
            secret(settings.admin_token),
            settings.is_loopback,
        )
        return self._workers.running(parts.generations, self.metrics, hello)

    def _add_admin(self, parts: Parts) -> None:
        settings = self._settings
        self._control.include_router(
            admin_router(self.units, parts.routing, parts.log, parts.health, self._base.lengths)
        )
        self._control.include_router(
            settings_router(settings, lambda: without_effect(running_of(parts)))
        )
        self._control.include_router(parts.pools.router())
        self._control.include_router(
            provisioning_router(
                parts.provisioning,
                self.units,
                time.monotonic,
                file=settings.standby_units,
                has_token=settings.admin_token is not None,
            )
        )
        self._control.include_router(quotas_router(self._base.limiter))
        self._control.include_router(dashboard_router())


def create_app(settings: GatewaySettings, workers: Workers | None = None) -> App:
    """The gateway as an ASGI application; ``workers`` hold its clients' connections if given.

    Raises:
        BadRequest: a unit or a quota cannot be parsed.
        ConfigError: the host configuration, the file of standby units or the store of quotas cannot
            be used.
        OSError: the tokenizer is not there, or the request log cannot be opened.
        ModelFolderError: the length estimator cannot be used.
    """
    return App(settings, workers)


def _configured_units(settings: GatewaySettings) -> list[Unit]:
    units = [parse_unit(text) for text in settings.unit]
    if settings.hosts is not None:
        units += [
            new_unit(
                address.name, address.engine_url, address.predictor_url, address.concurrency_limit
            )
            for address in load_host_configs(settings.hosts).units()
        ]
    return units


def _foundation(
    settings: GatewaySettings, units: UnitRegistry, metrics: GatewayMetrics
) -> Foundation:
    tokens = _token_counter(settings)
    estimator = open_estimator(settings.length_estimator, settings.length_deadline_ms / 1e3)
    lengths = Lengths(estimator, metrics.registry, time.monotonic)
    standby = load_standby_units(settings.standby_units, [unit.name for unit in units.all()])
    limiter = open_limiter(settings, metrics.registry)
    request_log = _request_log(settings, metrics)
    return Foundation(units, metrics, tokens, lengths, request_log, standby, limiter)


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
        return _error_answer(error if isinstance(error, GatewayError) else _translated(error))

    for kind in (GatewayError, RequestValidationError, HTTPException):
        control.add_exception_handler(kind, answer)


def _error_answer(error: GatewayError) -> Response:
    return Response(error.body(), error.status, media_type="application/json")


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
