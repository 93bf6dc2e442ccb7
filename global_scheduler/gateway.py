"""The data path: every ``/v1/*`` request, as a bare ASGI application.

A framework's routing and request objects cost more than the routing decision itself, so this path
uses none; ``app.py`` puts FastAPI beside it for everything else.
"""

from __future__ import annotations

import hmac
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from starlette.types import Receive, Scope, Send

from global_scheduler.bodies import GenerationRequest, parse_chat, parse_completion
from global_scheduler.decisions import Decision
from global_scheduler.dispatch import Dispatcher, Job
from global_scheduler.errors import (
    BadRequest,
    GatewayError,
    NotFound,
    NoUnitAvailable,
    Unauthorized,
    UpstreamFailed,
)
from global_scheduler.exchange import ClientGone, Exchange
from global_scheduler.ledger import Ledger
from global_scheduler.lengths import RunningMeanLengths
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.prompt_tokens import PromptTokenCounter
from global_scheduler.relay import Relayed, relay_stream, relay_whole
from global_scheduler.units import Unit, UnitRegistry
from global_scheduler.upstream import RawHeaders, UnitFailed, Upstream

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
PARSERS: dict[str, Callable[[bytes], GenerationRequest]] = {
    "/v1/completions": parse_completion,
    "/v1/chat/completions": parse_chat,
}


class _ModelOnly(msgspec.Struct):
    model: str | None = None


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What a client may ask of the gateway."""

    max_body_bytes: int
    max_attempts: int
    api_keys: tuple[str, ...]


class Gateway:
    """Routes and relays."""

    def __init__(
        self,
        limits: GatewayLimits,
        units: UnitRegistry,
        ledger: Ledger,
        dispatcher: Dispatcher,
        upstream: Upstream,
        lengths: RunningMeanLengths,
        tokens: PromptTokenCounter,
        metrics: GatewayMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._units = units
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._lengths = lengths
        self._tokens = tokens
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; every error ends here."""
        exchange = Exchange(scope, receive, send, _request_id(scope))
        try:
            self._check_key(exchange)
            await self._route(exchange)
        except ClientGone:
            self._metrics.request_ended("none", CLIENT_CLOSED_REQUEST)
        except GatewayError as error:
            self._metrics.request_ended("none", error.status)
            await exchange.answer_error(error)
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            self._metrics.request_ended("none", 500)
            await exchange.answer_error(GatewayError("internal error of the gateway"))

    def _check_key(self, exchange: Exchange) -> None:
        if not self._limits.api_keys:
            return
        scheme, _, key = (exchange.header(b"authorization") or b"").partition(b" ")
        known = [hmac.compare_digest(key, valid.encode()) for valid in self._limits.api_keys]
        if scheme.lower() != b"bearer" or not any(known):
            raise Unauthorized("missing or wrong API key", code="invalid_api_key")

    async def _route(self, exchange: Exchange) -> None:
        path, method = exchange.scope["path"], exchange.scope["method"]
        if ".." in path:
            raise NotFound(f"no such path: {path}")
        if path == "/v1/models" and method == "GET":
            await _answer_json(
                exchange, {"object": "list", "data": list(self._units.models().values())}
            )
        elif path in PARSERS:
            if method != "POST":
                raise BadRequest(f"{path} takes POST, not {method}")
            await self._generate(exchange, PARSERS[path])
        else:
            await self._pass_through(exchange, method)

    async def _generate(
        self, exchange: Exchange, parse: Callable[[bytes], GenerationRequest]
    ) -> None:
        started_s = self._clock()
        body = await exchange.body(self._limits.max_body_bytes)
        request = parse(body)
        job = await self._job(exchange, request)
        async with exchange.until_client_leaves():
            await self._attempt_units(exchange, job, request, body, started_s)

    async def _job(self, exchange: Exchange, request: GenerationRequest) -> Job:
        model = request.model or self._only_model()
        if exchange.request_id in self._ledger:
            # Two clients may use one id at a time; the ledger and the sidecars must not mix them.
            exchange.request_id = f"{exchange.request_id[:100]}-{uuid.uuid4().hex[:8]}"
        return Job(
            request_id=exchange.request_id,
            model=model,
            num_prompt_tokens=await self._tokens.count(model, request),
            length=self._lengths.estimate(model, request.max_tokens),
            max_tokens=request.max_tokens,
            priority=request.priority,
        )

    def _only_model(self) -> str:
        models = self._units.models()
        if len(models) != 1:
            raise BadRequest("you must provide a model", param="model")
        return next(iter(models))

    async def _attempt_units(
        self,
        exchange: Exchange,
        job: Job,
        request: GenerationRequest,
        body: bytes,
        started_s: float,
    ) -> None:
        """Try units until one has answered or none is left; latencies count from ``started_s``."""
        tried: list[str] = []
        while True:
            unit, decision = await self._dispatcher.dispatch(job, tried)
            tried.append(unit.name)
            may_retry = len(tried) < self._limits.max_attempts and any(
                other.name not in tried for other in self._units.eligible(job.model)
            )
            try:
                relayed = await self._try_unit(
                    exchange, job, request, body, unit, decision, may_retry
                )
            except UnitFailed as failure:
                decision.status = 502
                self._note_failure(unit, failure, job.request_id)
                if may_retry:
                    continue
                raise UpstreamFailed(
                    f"unit {unit.name} failed: {failure}", code="unit_failed"
                ) from failure
            except (UpstreamFailed, NoUnitAvailable) as error:
                decision.status = error.status
                raise
            self._learn(job, request, unit, decision, relayed, started_s)
            return

    async def _try_unit(
        self,
        exchange: Exchange,
        job: Job,
        request: GenerationRequest,
        body: bytes,
        unit: Unit,
        decision: Decision,
        may_retry: bool,
    ) -> Relayed:
        decision.status = CLIENT_CLOSED_REQUEST  # until it is known better
        headers = self._upstream.headers(
            exchange.scope["headers"], job.request_id, keep_auth=not self._limits.api_keys
        )
        try:
            response = await self._upstream.open(unit, "POST", exchange.target, headers, body)
            async with response:
                if response.status >= 500 and may_retry:
                    raise UnitFailed(f"HTTP {response.status}")
                ours = _our_headers(unit, job.request_id, decision)
                if not request.stream or response.status != 200:
                    return await relay_whole(response, exchange, ours)
                return await relay_stream(
                    response,
                    exchange,
                    ours,
                    may_retry=may_retry,
                    clock=self._clock,
                    on_first_token=lambda: self._ledger.first_token(job.request_id),
                )
        finally:
            self._ledger.ended(unit, job.request_id)

    def _note_failure(self, unit: Unit, failure: UnitFailed, request_id: str) -> None:
        logger.warning("request %s: unit %s failed: %s", request_id, unit.name, failure)
        self._metrics.retried(unit.name)
        if failure.refused:
            unit.refused(str(failure))

    def _learn(
        self,
        job: Job,
        request: GenerationRequest,
        unit: Unit,
        decision: Decision,
        relayed: Relayed,
        started_s: float,
    ) -> None:
        """Put down what happened; estimates learn from answers that ended well."""
        e2e_s = self._clock() - started_s
        ttft_s = None
        if relayed.first_token_at_s is not None:
            ttft_s = relayed.first_token_at_s - started_s
        decision.status = relayed.status
        self._metrics.request_ended(unit.name, relayed.status)
        if relayed.counts is None:
            return
        decision.observed_e2e_ms = e2e_s * 1e3
        decision.observed_ttft_ms = None if ttft_s is None else ttft_s * 1e3
        decision.observed_output_tokens = relayed.counts.num_output_tokens
        self._metrics.observed(unit.name, ttft_s=ttft_s, e2e_s=e2e_s)
        if decision.predicted_e2e_ms is not None:
            self._metrics.predicted(unit.name, "e2e", decision.predicted_e2e_ms / 1e3, e2e_s)
        if decision.predicted_ttft_ms is not None and ttft_s is not None:
            self._metrics.predicted(unit.name, "ttft", decision.predicted_ttft_ms / 1e3, ttft_s)
        self._lengths.observe(job.model, relayed.counts.num_output_tokens)
        if relayed.counts.num_prompt_tokens is not None:
            self._tokens.correct(job.model, request, relayed.counts.num_prompt_tokens)

    async def _pass_through(self, exchange: Exchange, method: str) -> None:
        """Any other path: to the least loaded unit that serves the body's model, unread."""
        body = await exchange.body(self._limits.max_body_bytes)
        model = _model_of(exchange, body)
        headers = self._upstream.headers(
            exchange.scope["headers"], exchange.request_id, keep_auth=not self._limits.api_keys
        )
        async with exchange.until_client_leaves():
            unit = self._dispatcher.any_unit(model)
            try:
                response = await self._upstream.open(unit, method, exchange.target, headers, body)
                async with response:
                    relayed = await relay_stream(
                        response,
                        exchange,
                        _our_headers(unit, exchange.request_id, None),
                        may_retry=False,
                        clock=self._clock,
                        on_first_token=lambda: None,
                    )
            except UnitFailed as failure:
                self._note_failure(unit, failure, exchange.request_id)
                raise UpstreamFailed(f"unit {unit.name} failed: {failure}") from failure
        self._metrics.request_ended(unit.name, relayed.status)


def _request_id(scope: Scope) -> str:
    """The client's ``x-request-id`` if it is usable, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


def _model_of(exchange: Exchange, body: bytes) -> str | None:
    if b"json" not in (exchange.header(b"content-type") or b""):
        return None
    try:
        return msgspec.json.decode(body, type=_ModelOnly).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _our_headers(unit: Unit, request_id: str, decision: Decision | None) -> RawHeaders:
    headers = [
        (b"x-request-id", request_id.encode("ascii")),
        (b"x-astrolabe-unit", unit.name.encode("ascii")),
    ]
    if decision is None:
        return headers
    headers.append((b"x-astrolabe-policy", decision.policy.encode("ascii")))
    if decision.predicted_ttft_ms is not None and decision.predicted_e2e_ms is not None:
        headers.append((b"x-astrolabe-predicted-ttft-ms", b"%.3f" % decision.predicted_ttft_ms))
        headers.append((b"x-astrolabe-predicted-e2e-ms", b"%.3f" % decision.predicted_e2e_ms))
    if decision.fallback is not None:
        headers.append((b"x-astrolabe-fallback", decision.fallback.encode("ascii")))
    return headers


async def _answer_json(exchange: Exchange, content: object) -> None:
    headers: RawHeaders = [
        (b"content-type", b"application/json"),
        (b"x-request-id", exchange.request_id.encode("ascii")),
    ]
    await exchange.answer(200, headers, msgspec.json.encode(content))
