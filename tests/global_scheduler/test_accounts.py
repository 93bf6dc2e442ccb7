"""What the gateway tells a sidecar of the requests in flight, and of their latency goals."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.errors import BadRequest
from global_scheduler.ledger import InFlight, Ledger
from global_scheduler.slo import read_slo
from global_scheduler.units import Unit
from tests.global_scheduler.fleet import DONE, EVENT, SSE_HEADERS, ScriptedEngine, eventually, fleet
from wire.prediction import SentRequest, Slo

pytestmark = pytest.mark.anyio


class PausingEngine(ScriptedEngine):
    """Streams three tokens in two chunks, then waits until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(behave=self._stream)
        self.may_end = asyncio.Event()

    async def _stream(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        for chunk in (EVENT, EVENT + EVENT):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": DONE})

    async def was_asked_twice(self) -> bool:
        """Whether its sidecar has got two questions."""
        return len(self.questions) >= 2


async def test_a_sidecar_is_told_how_far_each_stream_has_come() -> None:
    """With its bounds and goals, and the time since its first token."""
    engine = PausingEngine()
    headers = {"x-request-id": "first", "x-slo-tpot-ms": "80", "x-slo-ttft-ms": "500.5"}
    async with fleet(engine) as running:
        fields = {"model": "m", "prompt": "hello", "stream": True, "max_tokens": 40}
        request = running.client.stream("POST", "/v1/completions", json=fields, headers=headers)
        async with request as response:
            chunks = response.aiter_raw()
            received = b""
            while received.count(EVENT) < 3:
                received += await anext(chunks)
            second = asyncio.ensure_future(running.complete(stream=True))
            await eventually(engine.was_asked_twice)
            engine.may_end.set()
            await second
        sent = engine.questions[1].sent
    assert sent is not None
    (told,) = sent
    assert (told.request_id, told.max_tokens, told.num_output_tokens) == ("first", 40, 3)
    assert told.has_first_token
    assert told.is_streamed
    assert told.slo == Slo(ttft_ms=500.5, tpot_ms=80.0)
    assert told.first_token_age_ms is not None
    assert 0 <= told.first_token_age_ms <= told.sent_age_ms
    assert engine.questions[0].requests[0].slo == told.slo
    assert engine.questions[0].sent == []
    assert engine.questions[1].requests[0].slo is None


def test_the_account_of_a_request() -> None:
    """A distribution of lengths goes along; before the first token there is no age of it."""
    now_s = 10.0
    ledger = Ledger(lambda: now_s)
    unit = Unit("a", "http://a", None)
    quantiles = {"0.5": 20.0, "0.9": 80.0}
    ledger.sent(
        unit, InFlight("r", "a", 100, 50.0, 3, 9.0, None, quantiles=quantiles, is_streamed=False)
    )
    (told,) = ledger.sent_list(unit)
    assert told == SentRequest(
        request_id="r",
        num_prompt_tokens=100,
        expected_output_tokens=50.0,
        sent_age_ms=1000.0,
        priority=3,
        quantiles=quantiles,
        is_streamed=False,
    )
    ledger.streamed(unit, "r", 1)
    now_s = 12.0
    ledger.streamed(unit, "r", 7)
    (told,) = ledger.sent_list(unit)
    assert (told.has_first_token, told.num_output_tokens) == (True, 7)
    assert told.first_token_age_ms == 2000.0


def test_the_extensions_own_headers_win() -> None:
    """Each goal by itself."""
    headers = {b"x-slo-ttft-ms": b"1", b"x-llm-d-slo-ttft-ms": b"2", b"x-slo-tpot-ms": b"3"}
    assert read_slo(headers.get, "m", {}) == Slo(ttft_ms=2.0, tpot_ms=3.0)
    assert read_slo(dict[bytes, bytes]().get, "m", {}) is None


@pytest.mark.parametrize("value", [b"", b"fast", b"0", b"-5", b"nan", b"inf", b"\xff", b"1e10"])
def test_a_goal_that_is_no_time_is_refused(value: bytes) -> None:
    """The error names the header and its value."""
    with pytest.raises(BadRequest, match="x-slo-ttft-ms must be"):
        read_slo({b"x-slo-ttft-ms": value}.get, "m", {})


async def test_a_bad_goal_never_reaches_an_engine() -> None:
    """The client gets OpenAI's error, with the header as its parameter."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        answer = await running.complete(headers={"x-llm-d-slo-tpot-ms": "soon"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "x-llm-d-slo-tpot-ms"
    assert "'soon'" in error["message"]
    assert engine.requests == []
