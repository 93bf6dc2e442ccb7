"""Asking sidecars: kept-alive connections, one shared call per unit and window, one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

import msgspec

from global_scheduler.connection_pool import ConnectionPool, origin_of
from global_scheduler.engine_http import BrokenOff, Response
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.outcomes import Outcomes
from global_scheduler.units import Unit
from wire.prediction import (
    PredictBatchRequest,
    PredictBatchResponse,
    Prediction,
    PredictRequest,
)

MISSES_TO_PAUSE = 3
"""Calls without an answer in a row after which a sidecar is left alone for a while, so that a hung
one does not cost every request the whole deadline."""
PAUSE_S = 1.0
LARGEST_ANSWER_BYTES = 4 << 20
NOTHING_CACHED: Mapping[str, int] = MappingProxyType({})

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(PredictBatchResponse)


class Answer(msgspec.Struct, frozen=True):
    """A sidecar's answer, and when its question left (the gateway's clock)."""

    prediction: Prediction
    asked_at_s: float


class Predictions(Protocol):
    """Whoever can be asked what a request would meet on units: sidecars, or a twin's."""

    async def ask(
        self,
        units: Sequence[Unit],
        question: PredictRequest,
        *,
        simulate: bool,
        num_cached_tokens: Mapping[str, int] = NOTHING_CACHED,
        cost_to_others: bool = False,
    ) -> dict[str, Answer]:
        """The answers that came in time, by unit name.

        Each unit is asked with the prompt tokens that its own prefix cache holds.
        """


class NoAnswer(Exception):
    """The sidecar did not give a usable answer; the message is the reason."""


class _Kind(NamedTuple):
    """What is asked for. Questions of different kinds do not share a call."""

    simulate: bool
    cost_to_others: bool


@dataclass(slots=True)
class _Mailbox:
    """Questions to one unit that wait for the window's end, and how the sidecar has behaved."""

    questions: list[tuple[PredictRequest, asyncio.Future[Answer]]] = field(default_factory=list)
    flush_scheduled: bool = False
    last_call_s: float = float("-inf")
    misses: int = 0
    paused_until_s: float = float("-inf")


class PredictionClient:
    """Asks the sidecars of a fleet.

    A question to a unit that was not asked within the last ``window_s`` leaves at once; those that
    follow within the window share the next call.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        ledger: Ledger,
        outcomes: Outcomes,
        metrics: GatewayMetrics,
        clock: Callable[[], float],
        *,
        deadline_s: float,
        window_s: float,
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._outcomes = outcomes
        self._metrics = metrics
        self._clock = clock
        self._deadline_s = deadline_s
        self._window_s = window_s
        self._mailboxes: dict[tuple[str, _Kind], _Mailbox] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(
        self,
        units: Sequence[Unit],
        question: PredictRequest,
        *,
        simulate: bool,
        num_cached_tokens: Mapping[str, int] = NOTHING_CACHED,
        cost_to_others: bool = False,
    ) -> dict[str, Answer]:
        """The answers that came before the deadline, by unit name.

        Each unit is asked with the prompt tokens that its own prefix cache holds.
        """
        kind = _Kind(simulate, cost_to_others)
        futures = {}
        for unit in units:
            its_question = _with_cached(question, num_cached_tokens.get(unit.name, 0))
            future = self._post(unit, its_question, kind)
            if future is not None:
                futures[unit.name] = future
        if not futures:
            return {}
        try:
            await asyncio.wait(futures.values(), timeout=self._deadline_s)
        except asyncio.CancelledError:
            # The client has left; nobody looks at the answers any more, nor at their errors.
            for future in futures.values():
                if not future.cancel():
                    future.exception()
            raise
        return {
            name: future.result() for name, future in futures.items() if self._took(name, future)
        }

    async def close(self) -> None:
        """End the calls in flight."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _took(self, unit: str, future: asyncio.Future[Answer]) -> bool:
        if not future.done():
            future.cancel()
            self._metrics.prediction_missing(unit, "late")
            return False
        if future.exception() is not None:
            self._metrics.prediction_missing(unit, str(future.exception()))
            return False
        return True

    def _post(
        self, unit: Unit, question: PredictRequest, kind: _Kind
    ) -> asyncio.Future[Answer] | None:
        if unit.predictor_url is None:
            return None
        mailbox = self._mailboxes.setdefault((unit.name, kind), _Mailbox())
        now_s = self._clock()
        if now_s < mailbox.paused_until_s:
            self._metrics.prediction_missing(unit.name, "paused")
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        mailbox.questions.append((question, future))
        if not mailbox.flush_scheduled:
            mailbox.flush_scheduled = True
            wait_s = mailbox.last_call_s + self._window_s - now_s
            loop.call_later(max(0.0, wait_s), self._flush, unit, mailbox, kind)
        return future

    def _flush(self, unit: Unit, mailbox: _Mailbox, kind: _Kind) -> None:
        questions = [(q, future) for q, future in mailbox.questions if not future.done()]
        mailbox.questions, mailbox.flush_scheduled = [], False
        if not questions:
            return
        mailbox.last_call_s = self._clock()
        call = asyncio.ensure_future(self._call(unit, mailbox, questions, kind))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(
        self,
        unit: Unit,
        mailbox: _Mailbox,
        questions: list[tuple[PredictRequest, asyncio.Future[Answer]]],
        kind: _Kind,
    ) -> None:
        asked_at_s = self._clock()
        try:
            predictions = await self._fetch(unit, [question for question, _ in questions], kind)
        except NoAnswer as reason:
            self._missed(mailbox)
            for _, future in questions:
                if not future.done():
                    future.set_exception(reason)
            return
        mailbox.misses = 0
        for (_, future), prediction in zip(questions, predictions, strict=True):
            if not future.done():
                future.set_result(Answer(prediction, asked_at_s))

    def _missed(self, mailbox: _Mailbox) -> None:
        mailbox.misses += 1
        if mailbox.misses >= MISSES_TO_PAUSE:
            mailbox.paused_until_s = self._clock() + PAUSE_S

    async def _fetch(
        self, unit: Unit, questions: list[PredictRequest], kind: _Kind
    ) -> list[Prediction]:
        ended = self._outcomes.take(unit.name)
        body = PredictBatchRequest(
            requests=questions,
            sent=self._ledger.sent_list(unit),
            simulate=kind.simulate,
            cost_to_others=kind.cost_to_others,
            ended=ended,
        )
        try:
            payload = await self._send(unit, body)
        except NoAnswer:
            self._outcomes.give_back(unit.name, ended)
            raise
        return _checked(payload, len(questions))

    async def _send(self, unit: Unit, body: PredictBatchRequest) -> bytes:
        """The answer to a call; raises NoAnswer unless it is a 200 within the deadline."""
        assert unit.predictor_url is not None, "no others are asked"
        headers = [
            (b"content-type", b"application/json"),
            (b"x-astrolabe-deadline-ms", b"%.0f" % (self._deadline_s * 1e3)),
        ]
        try:
            asked = self._pool.request(
                origin_of(unit.predictor_url),
                "POST",
                "/predict/batch",
                headers,
                _encoder.encode(body),
                silence_s=self._deadline_s,
                is_total=True,
            )
            async with await asked as response:
                if response.status != 200:
                    raise NoAnswer(f"http_{response.status}")
                return await _read(response)
        except TimeoutError:
            raise NoAnswer("late") from None
        except BrokenOff as error:
            raise NoAnswer("late" if error.was_late else "unreachable") from None
        except (OSError, ValueError):
            raise NoAnswer("unreachable") from None


async def _read(response: Response) -> bytes:
    payload = b""
    while chunk := await response.read_some():
        payload += chunk
        if len(payload) > LARGEST_ANSWER_BYTES:
            raise NoAnswer("malformed")
    return payload


def _with_cached(question: PredictRequest, num_cached_tokens: int) -> PredictRequest:
    if not num_cached_tokens:
        return question
    return msgspec.structs.replace(question, num_cached_tokens=num_cached_tokens)


def _checked(payload: bytes, num_questions: int) -> list[Prediction]:
    """The predictions in ``payload``; a lying sidecar's, with any number out of the range that its
    type allows, are refused."""
    try:
        predictions = _decoder.decode(payload).predictions
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NoAnswer("malformed") from None
    if len(predictions) != num_questions:
        raise NoAnswer("malformed")
    return predictions
