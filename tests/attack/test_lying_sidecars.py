"""Sidecars that lie: what they say costs nobody an answer, and is counted as missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.policies import POLICIES
from tests.global_scheduler.fleet import (
    COMPLETION,
    Fleet,
    ScriptedEngine,
    fleet,
    predicting,
    prediction,
    reply,
    worked_off,
)
from wire.prediction import (
    MAX_ANSWER_MS,
    MAX_COUNT,
    BacklogItem,
    BacklogPrediction,
    BacklogRequest,
    Prediction,
)

BOUNDS = {float: (0.0, MAX_ANSWER_MS), int: (0, MAX_COUNT)}
DEEP = b"[" * 100_000 + b"]" * 100_000
MISSING = 'astrolabe_predictions_missing_total{reason="malformed",unit="u0"}'
NEGATIVE = {"added_delay_others_ms": -200.0}
HUGE = {"added_delay_others_ms": 1e308, "e2e_ms": 1e308, "ttft_ms": 1e308}
NEGATIVE_COUNTS = {"num_unprocessed_tokens": -(10**15), "kv_blocks_free": -(10**15)}
PREDICTIVE = [policy.name for policy in POLICIES.values() if policy.needs != "nothing"]


async def nest_deeply(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """A sidecar whose answer has a field that nobody reads, nested 100,000 deep."""
    await reply(send, 200, b'{"more":%s,"predictions":[]}' % DEEP)


async def assert_all_are_answered(running: Fleet, number: int = 4) -> None:
    """Clients that ask at the same time have the engine's answer, each of them."""
    answers = await asyncio.gather(*(running.complete() for _ in range(number)))
    assert [(one.status_code, one.content) for one in answers] == [(200, COMPLETION)] * number


def numbers_of(type_: type) -> list[tuple[str, type]]:
    """The fields of an answer that are numbers, and which kind."""
    return [(name, kind) for name, kind in get_type_hints(type_).items() if kind in BOUNDS]


def whole_answers() -> list[tuple[type, dict[str, Any]]]:
    """A truthful answer of each kind, as it travels."""
    backlog = worked_off(BacklogRequest(requests=[]))
    item = BacklogItem(request_id="r", queue_ms=0.0, ttft_ms=1.0, tpot_ms=1.0, e2e_ms=2.0)
    return [(type(one), msgspec.to_builtins(one)) for one in (prediction(), backlog, item)]


@pytest.mark.parametrize(
    ("type_", "fields"),
    whole_answers(),
    ids=[kind.__name__ for kind in (Prediction, BacklogPrediction, BacklogItem)],
)
def test_every_number_of_an_answer_has_a_range(type_: type, fields: dict[str, Any]) -> None:
    """What lies outside is refused where the answer is decoded; its bounds themselves are not."""
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(type_).decode
    numbers = numbers_of(type_)
    assert len(numbers) >= 4
    for name, kind in numbers:
        least, most = BOUNDS[kind]
        for fitting in (least, most):
            assert getattr(decode(msgspec.json.encode(fields | {name: fitting})), name) == fitting
        for lie in (least - 1, most * 2, -most, 10**400, "1", None):
            with pytest.raises(msgspec.ValidationError, match=rf"\$\.{name}"):
                decode(msgspec.json.encode(fields | {name: lie}))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("policy", "lie"),
    [
        *((policy, NEGATIVE) for policy in PREDICTIVE),
        ("min_total_delay", HUGE),
        ("min_total_unprocessed_tokens", NEGATIVE_COUNTS),
        ("min_llumnix_load", NEGATIVE_COUNTS),
    ],
)
async def test_one_lying_sidecar_stops_nobody(policy: str, lie: dict[str, Any]) -> None:
    """Its unit and the other one go on answering, and every lie is counted as a missing answer."""
    liar, honest = ScriptedEngine(answer_questions=predicting(**lie)), ScriptedEngine()
    async with fleet(liar, honest, policy=policy) as running:
        await assert_all_are_answered(running)
        assert (await running.complete()).headers["x-astrolabe-fallback"] == "imputed"
        assert await running.metric(MISSING) >= 1


@pytest.mark.anyio
async def test_one_lying_sidecar_stops_nobody_behind_several_workers() -> None:
    """The process that decides for all of them does not stumble either."""
    liar = ScriptedEngine(answer_questions=predicting(**NEGATIVE))
    async with fleet(liar, ScriptedEngine(), workers=2) as running:
        await assert_all_are_answered(running)
        assert await running.metric(MISSING) >= 1


@pytest.mark.anyio
async def test_a_deeply_nested_answer_is_a_malformed_one() -> None:
    """Requests do not wait for it until the deadline, and nothing escapes into the event loop."""
    liar = ScriptedEngine(answer_questions=nest_deeply)
    async with fleet(liar, ScriptedEngine()) as running:
        await assert_all_are_answered(running)
        assert await running.metric(MISSING) >= 1
