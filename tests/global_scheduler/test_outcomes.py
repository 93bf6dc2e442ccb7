"""What a request has met travels to the sidecar that predicted it, with the next question."""

import time

import anyio
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.metrics import GatewayMetrics
from global_scheduler.outcomes import MOST_IN_A_CALL, MOST_WAITING, Outcomes
from tests.global_scheduler.fleet import (
    DONE,
    EVENT,
    SSE_HEADERS,
    Behaviour,
    Broken,
    ScriptedEngine,
    fleet,
    prediction,
    reply,
    stream_of,
)
from wire.prediction import EndedRequest, PredictBatchResponse

pytestmark = pytest.mark.anyio

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4}}\n\n'
ERROR = b'data: {"error":{"message":"engine died"}}\n\n'


def told(engine: ScriptedEngine) -> list[list[str]]:
    """The ids of the ended requests that came along with each question."""
    return [[ended.request_id for ended in batch.ended] for batch in engine.questions]


def named(request_id: str) -> dict[str, str]:
    """Headers that give a request its id."""
    return {"x-request-id": request_id}


async def test_an_outcome_is_told_once_with_the_next_question() -> None:
    """The first question after a request's end carries what it met, later ones do not."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        for request_id in ("a", "b", "c"):
            await running.complete(headers=named(request_id))
        assert told(engine) == [[], ["a"], ["b"]]
        (ended,) = engine.questions[1].ended
        assert ended.ttft_ms is None  # not streamed
        assert ended.e2e_ms > 0
        assert ended.num_output_tokens == 3


async def test_latencies_count_from_the_sending() -> None:
    """A what-if lets the request join at once, so a sidecar's own slowness is left out."""

    async def slow_stream(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        for chunk, wait_s in ((EVENT, 0.1), (EVENT, 0.2), (USAGE + DONE, 0.0)):
            await anyio.sleep(wait_s)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def think(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await anyio.sleep(0.4)
        answer = PredictBatchResponse(predictions=[prediction()])
        await reply(send, 200, msgspec.json.encode(answer))

    engine = ScriptedEngine(behave=slow_stream, answer_questions=think)
    async with fleet(engine) as running:
        began_s = time.monotonic()
        await running.complete(stream=True)
        took_ms = (time.monotonic() - began_s) * 1e3
        engine.answer_questions = None
        await running.complete(stream=True)
    (ended,) = engine.questions[1].ended
    assert ended.ttft_ms is not None
    assert 100 <= ended.ttft_ms <= ended.e2e_ms - 190
    assert ended.e2e_ms <= took_ms - 390
    assert ended.num_output_tokens == 4


async def test_an_outcome_waits_until_a_call_is_answered() -> None:
    """A refused call takes nothing with it, and a request without a prediction has no outcome."""
    engine = ScriptedEngine()

    async def refuse(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await reply(send, 503, b"{}")

    async with fleet(engine) as running:
        await running.complete(headers=named("a"))
        engine.answer_questions = refuse
        await running.complete(headers=named("unpredicted"))
        engine.answer_questions = None
        await running.complete(headers=named("b"))
        await running.complete()
        assert told(engine) == [[], ["a"], ["a"], ["b"]]


async def test_questions_without_a_what_if_carry_outcomes_too() -> None:
    """A policy that only reads the state still lets the calibration learn what is left to tell."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        await running.complete(headers=named("a"))
        await running.client.put("/admin/policy", json={"policy": "min_llumnix_load"})
        await running.complete()
        assert not engine.questions[1].simulate
        assert told(engine) == [[], ["a"]]


async def _fail(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    await reply(send, 500, b"{}")


@pytest.mark.parametrize(
    ("behave", "body"),
    [
        (_fail, {}),
        (stream_of(EVENT, EVENT, then=Broken()), {"stream": True}),
        (stream_of(ERROR, DONE), {"stream": True}),
        (stream_of(EVENT, EVENT, ERROR + DONE), {"stream": True}),
        (stream_of(EVENT, USAGE + DONE), {"stream": True, "n": 2}),
        (stream_of(EVENT, USAGE + DONE), {"stream": True, "prompt": ["x", "y"]}),
    ],
)
async def test_what_no_what_if_played_is_not_told(
    behave: Behaviour, body: dict[str, object]
) -> None:
    """Failures, and requests of which the engine makes several sequences, teach nothing."""
    engine = ScriptedEngine(behave=behave)
    async with fleet(engine) as running:
        await running.complete(**body)
        await running.complete(**body)
        assert told(engine) == [[], []]


async def test_a_retried_request_is_told_only_where_it_was_answered() -> None:
    """The unit that failed hears nothing of it."""
    failing = ScriptedEngine(behave=_fail, predict=lambda batch: 1.0)
    answering = ScriptedEngine(predict=lambda batch: 500.0)
    async with fleet(failing, answering) as running:
        await running.complete(headers=named("a"))
        await running.complete(headers=named("b"))
        assert not any(told(failing))
        assert ["a"] in told(answering)


async def test_events_are_not_taken_for_tokens() -> None:
    """Without a usage object the time of the first token is all that is sure."""
    engine = ScriptedEngine(behave=stream_of(EVENT, EVENT, DONE))
    async with fleet(engine) as running:
        await running.complete(stream=True)
        await running.complete(stream=True)
    (ended,) = engine.questions[1].ended
    assert ended.num_output_tokens is None
    assert ended.ttft_ms is not None


def test_outcomes_that_nobody_takes_are_bounded() -> None:
    """The newest stay, in order; what falls out is counted, and one call takes a part."""
    metrics = GatewayMetrics()
    outcomes = Outcomes(metrics)
    for number in range(MOST_WAITING + 5):
        outcomes.add("u", EndedRequest(request_id=str(number), e2e_ms=1.0))
    first = outcomes.take("u")
    assert [ended.request_id for ended in first] == [str(5 + n) for n in range(MOST_IN_A_CALL)]
    for number in range(2, 5):
        outcomes.add("u", EndedRequest(request_id=f"late-{number}", e2e_ms=1.0))
    outcomes.give_back("u", first)
    assert metrics.registry.get_sample_value("astrolabe_outcomes_dropped_total", {"unit": "u"}) == 8
    assert [ended.request_id for ended in outcomes.take("u")][:2] == ["8", "9"]
    assert outcomes.take("other") == []
