"""Asking sidecars how their units would work off a backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import aiohttp
import msgspec

from global_scheduler.ledger import Ledger
from global_scheduler.pool_metrics import BacklogMetrics, Purpose
from global_scheduler.predictions import NoAnswer
from global_scheduler.queueing.waiting import Waiting
from global_scheduler.units import Unit
from wire.prediction import BacklogPrediction, BacklogRequest, PredictRequest

LARGEST_ANSWER_BYTES = 1 << 20

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(BacklogPrediction)


class Backlogs(Protocol):
    """Whoever can be asked how a unit would work off a backlog."""

    async def try_ask(
        self,
        unit: Unit,
        requests: Sequence[Waiting],
        purpose: Purpose,
        *,
        limit: int,
        deadline_s: float,
    ) -> BacklogPrediction | None:
        """What if the unit got these requests, ``limit`` at a time? None: no answer in time."""


class BacklogClient:
    """Asks one sidecar at a time; every call has a deadline."""

    def __init__(
        self, session: aiohttp.ClientSession, ledger: Ledger, metrics: BacklogMetrics
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._metrics = metrics

    async def try_ask(
        self,
        unit: Unit,
        requests: Sequence[Waiting],
        purpose: Purpose,
        *,
        limit: int,
        deadline_s: float,
    ) -> BacklogPrediction | None:
        """What if the unit got these requests, ``limit`` at a time? None, counted: no answer."""
        if unit.predictor_url is None:
            return None
        body = BacklogRequest(
            requests=[_question(waiting) for waiting in requests],
            sent=self._ledger.sent_list(unit),
            max_num_seqs=limit,
        )
        self._metrics.asked(purpose)
        try:
            return _checked(await self._send(unit.predictor_url, body, deadline_s), len(requests))
        except NoAnswer as reason:
            self._metrics.missing(unit.name, purpose, str(reason))
            return None

    async def _send(self, url: str, body: BacklogRequest, deadline_s: float) -> bytes:
        """The answer's body; raises NoAnswer unless it is a 200 within the deadline."""
        try:
            async with self._session.post(
                f"{url}/predict/backlog",
                data=_encoder.encode(body),
                headers={
                    "content-type": "application/json",
                    "x-astrolabe-deadline-ms": f"{deadline_s * 1e3:.0f}",
                },
                timeout=aiohttp.ClientTimeout(total=deadline_s),
            ) as response:
                if response.status != 200:
                    raise NoAnswer(f"http_{response.status}")
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > LARGEST_ANSWER_BYTES:
                        raise NoAnswer("malformed")
                return bytes(answer)
        except asyncio.TimeoutError:
            raise NoAnswer("late") from None
        except aiohttp.ClientError:
            raise NoAnswer("unreachable") from None


def _question(waiting: Waiting) -> PredictRequest:
    return PredictRequest(
        request_id=waiting.request_id,
        num_prompt_tokens=max(1, waiting.num_prompt_tokens),
        expected_output_tokens=waiting.expected_output_tokens,
    )


def _checked(payload: bytes, num_requests: int) -> BacklogPrediction:
    """The prediction in ``payload``; a lying sidecar's, with any number out of the range that its
    type allows, is refused."""
    try:
        prediction = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NoAnswer("malformed") from None
    if len(prediction.requests) != num_requests:
        raise NoAnswer("malformed")
    return prediction
