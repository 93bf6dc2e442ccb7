"""One generation, from its body to its answer: estimate, choose a unit, relay, or try another."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from global_scheduler.attempts import Attempts
from global_scheduler.bodies import GenerationRequest
from global_scheduler.carrying import Carry, Errand
from global_scheduler.decisions import Decision
from global_scheduler.dispatch import Dispatcher
from global_scheduler.engine_http import RawHeaders
from global_scheduler.errors import BadRequest, UpstreamFailed
from global_scheduler.exchange import CLIENT_CLOSED_REQUEST, Caller
from global_scheduler.importance import importance_of, session_of
from global_scheduler.job import Job
from global_scheduler.late_binding import LateBinding
from global_scheduler.ledger import Ledger
from global_scheduler.length_metrics import typical_tokens
from global_scheduler.lengths import Lengths
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.observations import Observations
from global_scheduler.prefixes import prefix_of
from global_scheduler.prompt_tokens import PromptTokenCounter
from global_scheduler.queueing.tickets import Ticket
from global_scheduler.quotas.keys import key_id
from global_scheduler.quotas.limiter import Limiter, Reservation
from global_scheduler.relay import Relayed
from global_scheduler.slo import read_slo
from global_scheduler.units import Unit, UnitRegistry
from global_scheduler.upstream import UnitFailed
from wire.length import LengthEstimate

logger = logging.getLogger(__name__)


class Generation(msgspec.Struct, frozen=True):
    """A request under way."""

    request: GenerationRequest
    job: Job
    carry: Carry
    reservation: Reservation


class Generations:
    """Serves ``/v1/completions`` and ``/v1/chat/completions``."""

    def __init__(
        self,
        units: UnitRegistry,
        ledger: Ledger,
        late_binding: LateBinding,
        dispatcher: Dispatcher,
        lengths: Lengths,
        tokens: PromptTokenCounter,
        observations: Observations,
        metrics: GatewayMetrics,
        limiter: Limiter,
        *,
        clock: Callable[[], float],
        max_attempts: int,
    ) -> None:
        self._attempts = Attempts(units, late_binding, dispatcher, max_attempts)
        self._units = units
        self._ledger = ledger
        self._late_binding = late_binding
        self._dispatcher = dispatcher
        self._lengths = lengths
        self._tokens = tokens
        self._metrics = metrics
        self._observations = observations
        self._limiter = limiter
        self._clock = clock

    async def serve(self, caller: Caller, request: GenerationRequest, carry: Carry) -> None:
        """Answer one request.

        Raises:
            GatewayError: it cannot be answered.
            ClientGone: nobody waits for the answer any more.
        """
        arrived_s = self._clock()
        job = await self._job(caller, request, arrived_s)
        num_output_tokens = round(job.length.mean_tokens) * request.num_sequences
        async with (
            self._limiter.reserved(caller, job.num_prompt_tokens, num_output_tokens) as reserved,
            caller.until_client_leaves(),
        ):
            job = self._with_own_id(caller, job)
            generation = Generation(request, job, carry, reserved)
            await self._attempts.until_answered(job, partial(self._attempt, generation))

    async def _job(self, caller: Caller, request: GenerationRequest, arrived_s: float) -> Job:
        model = request.model or self._only_model()
        slo = read_slo(caller.header, model, self._dispatcher.routing.goal_defaults)
        importance = importance_of(caller.header, request.priority)
        num_prompt_tokens = await self._tokens.count(model, request)
        question = request.length_question(model, num_prompt_tokens)
        needs = self._dispatcher.routing.policy.needs
        by_model = needs != "nothing" or self._late_binding.needs_lengths
        length = await self._lengths.estimate(question, by_model=by_model)
        return Job(
            request_id=caller.request_id,
            model=model,
            arrived_s=arrived_s,
            num_prompt_tokens=num_prompt_tokens,
            length_question=question,
            length=length,
            max_tokens=request.max_tokens,
            priority=request.priority,
            importance=importance,
            user=request.user or _key_of(caller),
            session_id=session_of(caller.header),
            prefix=prefix_of(model, request),
            is_streamed=request.stream,
            slo=slo,
        )

    def _with_own_id(self, caller: Caller, job: Job) -> Job:
        """Two clients may use one id at a time; queues, ledger and sidecars must not mix them.

        No await may stand between this and the queue.
        """
        if job.request_id not in self._late_binding:
            return job
        caller.request_id = f"{job.request_id[:100]}-{uuid.uuid4().hex[:8]}"
        return replace(job, request_id=caller.request_id)

    def _only_model(self) -> str:
        models = self._units.models()
        if len(models) != 1:
            raise BadRequest("you must provide a model", param="model")
        return next(iter(models))

    async def _attempt(
        self,
        generation: Generation,
        unit: Unit,
        decision: Decision,
        ticket: Ticket,
        may_retry: bool,
    ) -> None:
        generation.reservation.sent()
        sent_s = self._clock()
        try:
            relayed = await self._try_unit(generation, unit, decision, may_retry)
        except UnitFailed as failure:
            generation.reservation.failed()
            decision.status = UpstreamFailed.status
            note_failure(unit, failure, generation.job.request_id, self._metrics)
            raise
        generation.reservation.answered(relayed)
        self._observations.note(
            generation.request,
            generation.job,
            decision,
            relayed,
            sent_s=sent_s,
            ended_s=self._clock(),
        )

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
            self._late_binding.wake()

    async def _relay(
        self, generation: Generation, unit: Unit, decision: Decision, may_retry: bool
    ) -> Relayed:
        job = generation.job

        def on_tokens(count: int) -> None:
            self._ledger.streamed(unit, job.request_id, count)
            generation.reservation.streamed(count)

        headers = unit_headers(unit, job.request_id) + _decision_headers(decision, job.length)
        errand = Errand(
            unit.engine_url, job.request_id, headers, generation.request.stream, may_retry
        )
        return await generation.carry(errand, on_tokens)


def _key_of(caller: Caller) -> str:
    """Whose request it is, by API key; empty if there is none."""
    authorization = caller.header(b"authorization")
    return key_id(authorization) if authorization else ""


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
        (b"x-astrolabe-waited-ms", b"%.3f" % decision.waited_ms),
        (b"x-astrolabe-policy", decision.policy.encode("ascii")),
        (b"x-astrolabe-predicted-output-tokens", b"%d" % round(typical_tokens(length))),
    ]
    if decision.predicted_ttft_ms is not None and decision.predicted_e2e_ms is not None:
        headers.append((b"x-astrolabe-predicted-ttft-ms", b"%.3f" % decision.predicted_ttft_ms))
        headers.append((b"x-astrolabe-predicted-e2e-ms", b"%.3f" % decision.predicted_e2e_ms))
    if decision.fallback is not None:
        headers.append((b"x-astrolabe-fallback", decision.fallback.encode("ascii")))
    return headers
