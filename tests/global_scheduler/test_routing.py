"""Requests are routed by what the sidecars answer, and by a named fallback where they do not."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from tests.global_scheduler.fleet import (
    DONE,
    EVENT,
    Behaviour,
    ScriptedEngine,
    eventually,
    fleet,
    reply,
    stream_of,
)

pytestmark = pytest.mark.anyio
HANGS_S = 3.0


async def test_the_request_goes_to_the_least_prediction_and_headers_say_so() -> None:
    """The answer names the unit and what was predicted for it."""
    slow, fast = ScriptedEngine(predict=lambda b: 900.0), ScriptedEngine(predict=lambda b: 30.5)
    async with fleet(slow, fast) as running:
        answer = await running.complete(headers={"x-request-id": "mine"}, max_tokens=40)
        assert answer.status_code == 200
        assert answer.headers["x-astrolabe-unit"] == "u1"
        e2e_ms = float(answer.headers["x-astrolabe-predicted-e2e-ms"])
        assert 30.5 <= e2e_ms < 900.0
        assert float(answer.headers["x-astrolabe-predicted-ttft-ms"]) == pytest.approx(
            e2e_ms - 20.5
        )
        assert answer.headers["x-request-id"] == "mine"
        assert "x-astrolabe-fallback" not in answer.headers
        question = fast.questions[0].requests[0]
        assert (question.request_id, question.expected_output_tokens) == ("mine", 40.0)
        (decision,) = await running.decisions()
        assert decision["unit"] == "u1"
        assert decision["status"] == 200
        assert decision["observed_output_tokens"] == 3
        slow_ms, fast_ms = (c["predicted_e2e_ms"] for c in decision["candidates"])
        assert slow_ms >= 900.0 > fast_ms >= 30.5


async def test_bodies_and_streams_pass_unchanged() -> None:
    """The engine gets the client's bytes, the client the engine's, comments and all."""
    odd = b': a comment\n\ndata: {"choices":[]}\r\n\r\n'
    engine = ScriptedEngine(behave=stream_of(EVENT, odd, EVENT + DONE))
    async with fleet(engine) as running:
        body = b'{ "model":"m",\n"prompt":"\\u00e9", "stream" : true, "unknown":[1] }'
        answer = await running.client.post("/v1/completions?x=1", content=body)
        assert answer.content == EVENT + odd + EVENT + DONE
        headers, received = engine.requests[0]
        assert received == body
        assert headers["x-request-id"] == answer.headers["x-request-id"]


async def test_a_burst_does_not_herd() -> None:
    """What was just sent counts at once, though every sidecar still says that it is idle."""
    engines = [ScriptedEngine(predict=lambda b: 100.0) for _ in range(4)]
    async with fleet(*engines) as running:
        answers = await asyncio.gather(*(running.complete() for _ in range(16)))
        assert {answer.status_code for answer in answers} == {200}
        assert [len(engine.requests) for engine in engines] == [4, 4, 4, 4]


async def test_requests_of_one_moment_share_calls() -> None:
    """Sixteen requests at once cost each sidecar a few calls, not sixteen."""
    engine = ScriptedEngine()
    async with fleet(engine, coalesce_ms=300.0) as running:
        await asyncio.gather(*(running.complete() for _ in range(16)))
        assert sum(len(batch.requests) for batch in engine.questions) == 16
        assert len(engine.questions) <= 4


async def test_the_sidecar_is_told_what_is_in_flight() -> None:
    """Requests sent and not ended go along with the next question."""
    release = asyncio.Event()

    async def hold(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await release.wait()
        await reply(send, 200, b"{}")

    engine = ScriptedEngine(behave=hold)
    async with fleet(engine) as running:
        first = asyncio.ensure_future(running.complete(headers={"x-request-id": "first"}))
        await eventually(_has_requests(engine, 1))
        second = asyncio.ensure_future(running.complete(headers={"x-request-id": "second"}))
        await eventually(_has_requests(engine, 2))
        assert [s.request_id for s in engine.questions[1].sent or ()] == ["first"]
        release.set()
        await asyncio.gather(first, second)
        await running.complete()
        assert engine.questions[2].sent == []


def _has_requests(engine: ScriptedEngine, count: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return len(engine.requests) >= count

    return check


async def _hang(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    await anyio.sleep(HANGS_S)


async def _lie(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    await reply(send, 200, b'{"predictions": []}')


async def _refuse(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    await reply(send, 503, b'{"error": {}}')


async def _garble(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    await reply(send, 200, b"\xff\x00<html>")


@pytest.mark.parametrize(
    ("sidecar", "reason", "deadline_ms"),
    [
        (_hang, "late", 50.0),
        (_lie, "malformed", 20_000.0),
        (_garble, "malformed", 20_000.0),
        (_refuse, "http_503", 20_000.0),
    ],
)
async def test_a_bad_sidecar_costs_at_most_the_deadline(
    sidecar: Behaviour, reason: str, deadline_ms: float
) -> None:
    """Slow, lying or failing sidecars: the request flows, the fallback is named and counted."""
    engine = ScriptedEngine(answer_questions=sidecar)
    async with fleet(engine, prediction_deadline_ms=deadline_ms) as running:
        answer = await running.complete()
        assert answer.status_code == 200
        assert answer.headers["x-astrolabe-fallback"] == "least_outstanding"
        (decision,) = await running.decisions()
        assert decision["decision_ms"] < HANGS_S * 1e3
        missing = f'astrolabe_predictions_missing_total{{reason="{reason}",unit="u0"}} '
        assert await running.metric(missing) == 1
        chosen = 'astrolabe_decisions_total{fallback="least_outstanding",policy="min_total_delay"} '
        assert await running.metric(chosen) == 1


async def test_a_hung_sidecar_is_left_alone_for_a_while_and_taken_up_again() -> None:
    """After three misses the deadline is not waited for any more; then it is tried again."""
    engine = ScriptedEngine(answer_questions=_hang)
    async with fleet(engine, prediction_deadline_ms=40.0) as running:
        for _ in range(3):
            await running.complete()
        await running.complete()
        assert len(engine.questions) == 3
        engine.answer_questions, engine.predict = None, lambda batch: 77.0

        async def is_back() -> bool:
            answer = await running.complete()
            return "x-astrolabe-predicted-e2e-ms" in answer.headers

        await eventually(is_back)


async def test_power_of_k_asks_k_sidecars() -> None:
    """Each decision draws its own candidates."""
    engines = [ScriptedEngine() for _ in range(4)]
    async with fleet(*engines, num_query_predictors=2, coalesce_ms=0.0) as running:
        for _ in range(30):
            await running.complete()
        asked = [sum(len(b.requests) for b in engine.questions) for engine in engines]
        assert sum(asked) == 60
        assert min(asked) > 0


async def test_policies_that_simulate_nothing_ask_nothing() -> None:
    """round_robin asks no sidecar; a token heuristic asks for the state only."""
    engine = ScriptedEngine()
    async with fleet(engine, policy="round_robin") as running:
        await running.complete()
        assert engine.questions == []
        await running.client.put("/admin/policy", json={"policy": "min_llumnix_load"})
        answer = await running.complete()
        assert answer.headers["x-astrolabe-policy"] == "min_llumnix_load"
        assert [batch.simulate for batch in engine.questions] == [False]


async def test_the_length_estimate_learns_from_answers() -> None:
    """The second question expects what the first answer's usage said."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        await running.complete(max_tokens=100)
        await running.complete(max_tokens=100)
        expected = [batch.requests[0].expected_output_tokens for batch in engine.questions]
        assert expected == [100.0, 3.0]


async def test_two_requests_with_one_id_are_kept_apart() -> None:
    """Clients may repeat ids; the ledger and the engines must not mix them up."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        headers = {"x-request-id": "same"}
        answers = await asyncio.gather(*(running.complete(headers=headers) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        sent = [headers["x-request-id"] for headers, _ in engine.requests]
        assert all(name.startswith("same") for name in sent)
        assert (await running.client.get("/admin/units")).json()[0]["num_outstanding"] == 0


async def test_other_paths_pass_through_to_a_unit_that_serves_the_model() -> None:
    """Embeddings and whatever else the engines offer."""

    async def echo(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await reply(send, 200, scope["path"].encode() + b" " + body)

    a, b = ScriptedEngine(models=("x",)), ScriptedEngine(behave=echo, models=("y",))
    async with fleet(a, b) as running:
        answer = await running.client.post("/v1/embeddings", json={"model": "y", "input": "i"})
        assert answer.text == '/v1/embeddings {"model":"y","input":"i"}'
        assert answer.headers["x-astrolabe-unit"] == "u1"
        models = (await running.client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in models] == ["x", "y"]
