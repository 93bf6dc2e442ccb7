"""One generation, from its body to its answer: estimate, choose a unit, relay, or try another."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from global_scheduler.bodies import GenerationRequest
from global_scheduler.decisions import Decision
from global_scheduler.dispatch import Dispatcher, Job
from global_scheduler.errors import BadRequest, UpstreamFailed
from global_scheduler.exchange import Exchange
from global_scheduler.ledger import Ledger
from global_scheduler.length_metrics import typical_tokens
from global_scheduler.lengths import Lengths
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.observations import Observations
from global_scheduler.prompt_tokens import PromptTokenCounter
from global_scheduler.relay import Relayed, relay_stream, relay_whole
from global_scheduler.slo import read_slo
from global_scheduler.units import Unit, UnitRegistry
from global_scheduler.upstream import RawHeaders, UnitFailed, Upstream
from wire.length import LengthEstimate

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499


@dataclass(frozen=True, slots=True)
class Generation:
    """A request under way."""

    exchange: Exchange
    request: GenerationRequest
    job: Job
    body: bytes
    started_s: float


class Generations:
    """Serves ``/v1/completions`` and ``/v1/chat/completions``."""

    def __init__(
        self,
        units: UnitRegistry,
        ledger: Ledger,
        dispatcher: Dispatcher,
        upstream: Upstream,
        lengths: Lengths,
        tokens: PromptTokenCounter,
        observations: Observations,
        metrics: GatewayMetrics,
        *,
        clock: Callable[[], float],
        max_attempts: int,
        forward_authorization: bool,
    ) -> None:
        self._units = units
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._lengths = lengths
        self._tokens = tokens
        self._metrics = metrics
        self._observations = observations
        self._clock = clock
        self._max_attempts = max_attempts
        self._forward_authorization = forward_authorization

    async def serve(self, exchange: Exchange, request: GenerationRequest, body: bytes) -> None:
        """Answer one request.

        Raises:
            GatewayError: it cannot be answered.
            ClientGone: nobody waits for the answer any more.
        """
        started_s = self._clock()
        job = await self._job(exchange, request)
        async with exchange.until_client_leaves():
            await self._attempt_units(Generation(exchange, request, job, body, started_s))

    async def _job(self, exchange: Exchange, request: GenerationRequest) -> Job:
        slo = read_slo(exchange.header)
        model = request.model or self._only_model()
        num_prompt_tokens = await self._tokens.count(model, request)
        question = request.length_question(model, num_prompt_tokens)
        needs = self._dispatcher.routing.policy.needs
        length = await self._lengths.estimate(question, by_model=needs != "nothing")
        if exchange.request_id in self._ledger:
            # Two clients may use one id at a time; the ledger and the sidecars must not mix them.
            exchange.request_id = f"{exchange.request_id[:100]}-{uuid.uuid4().hex[:8]}"
        return Job(
            request_id=exchange.request_id,
            model=model,
            num_prompt_tokens=num_prompt_tokens,
            length_question=question,
            length=length,
            max_tokens=request.max_tokens,
            priority=request.priority,
            is_streamed=request.stream,
            slo=slo,
        )

    def _only_model(self) -> str:
        models = self._units.models()
        if len(models) != 1:
            raise BadRequest("you must provide a model", param="model")
        return next(iter(models))

    async def _attempt_units(self, generation: Generation) -> None:
        """Try units until one has answered or none is left."""
        job, tried = generation.job, set[str]()
        while True:
            unit, decision = await self._dispatcher.dispatch(job, tried)
            sent_s = self._clock()
            tried.add(unit.name)
            may_retry = len(tried) < self._max_attempts and any(
                other.name not in tried for other in self._units.eligible(job.model)
            )
            try:
                relayed = await self._try_unit(generation, unit, decision, may_retry)
            except UnitFailed as failure:
                decision.status = UpstreamFailed.status
                note_failure(unit, failure, job.request_id, self._metrics)
                if not may_retry:
                    raise UpstreamFailed(
                        f"unit {unit.name} failed: {failure}", code="unit_failed"
                    ) from failure
            else:
                self._observations.note(
                    generation.request,
                    job,
                    decision,
                    relayed,
                    started_s=generation.started_s,
                    sent_s=sent_s,
                    ended_s=self._clock(),
                )
                return

    async def _try_unit(
        self, generation: Generation, unit: Unit, decision: Decision, may_retry: bool
    ) -> Relayed:
        decision.status = CLIENT_CLOSED_REQUEST  # what it stays if this is cancelled
        try:
            return await self._relay(generation, unit, decision, may_retry)
        except UpstreamFailed as error:
            decision.status = error.status
            raise
        finally:
            self._ledger.ended(unit, generation.job.request_id)

    async def _relay(
        self, generation: Generation, unit: Unit, decision: Decision, may_retry: bool
    ) -> Relayed:
        exchange, request_id = generation.exchange, generation.job.request_id
        headers = self._upstream.headers(
            exchange.scope["headers"], request_id, keep_auth=self._forward_authorization
        )
        target, body = exchange.target, generation.body
        async with await self._upstream.open(unit, "POST", target, headers, body) as response:
            if response.status >= 500 and may_retry:
                raise UnitFailed(f"HTTP {response.status}")
            ours = unit_headers(unit, request_id) + _decision_headers(
                decision, generation.job.length
            )
            if not generation.request.stream or response.status != 200:
                return await relay_whole(response, exchange, ours)
            return await relay_stream(
                response,
                exchange,
                ours,
                may_retry=may_retry,
                clock=self._clock,
                on_tokens=lambda count: self._ledger.streamed(request_id, count),
            )


def note_failure(unit: Unit, failure: UnitFailed, request_id: str, metrics: GatewayMetrics) -> None:
    """A unit failed before its first byte; one that refuses connections is taken out at once."""
    logger.warning("request %s: unit %s failed: %s", request_id, unit.name, failure)
    metrics.unit_failed(unit.name)
    if failure.refused:
        unit.refused(str(failure))


def unit_headers(unit: Unit, request_id: str) -> RawHeaders:
    """What every answer of a unit carries."""
    return [
        (b"x-request-id", request_id.encode("ascii")),
        (b"x-astrolabe-unit", unit.name.encode("ascii")),
    ]


def _decision_headers(decision: Decision, length: LengthEstimate) -> RawHeaders:
    headers = [
        (b"x-astrolabe-policy", decision.policy.encode("ascii")),
        (b"x-astrolabe-predicted-output-tokens", b"%d" % round(typical_tokens(length))),
    ]
    if decision.predicted_ttft_ms is not None and decision.predicted_e2e_ms is not None:
        headers.append((b"x-astrolabe-predicted-ttft-ms", b"%.3f" % decision.predicted_ttft_ms))
        headers.append((b"x-astrolabe-predicted-e2e-ms", b"%.3f" % decision.predicted_e2e_ms))
    if decision.fallback is not None:
        headers.append((b"x-astrolabe-fallback", decision.fallback.encode("ascii")))
    return headers
