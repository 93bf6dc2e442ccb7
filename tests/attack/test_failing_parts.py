"""Parts beside a request's way that fail, or are made to by what engines say: no request does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.decisions import DecisionLog
from global_scheduler.prompt_tokens import EstimatingCounter
from global_scheduler.split_prices import Pricer
from length_estimation.online.estimator import OnlineEstimator
from length_estimation.online.recalibration import Recalibration
from tests.attack.test_lying_sidecars import DEEP, assert_all_are_answered
from tests.global_scheduler.crowds import LONG, crowd, metric_is
from tests.global_scheduler.fleet import (
    DONE,
    EVENT,
    Behaviour,
    Fleet,
    Headers,
    ScriptedEngine,
    eventually,
    fleet,
    reply,
    stream_of,
)
from tests.length_estimation.tiny_model import write_model_folder

pytestmark = pytest.mark.anyio

Patch = pytest.MonkeyPatch
ANSWERED = 'astrolabe_requests_total{status="200",unit="u0"} '
FAILED = 'astrolabe_requests_total{status="500",unit="none"} '
LEARNT = 'astrolabe_length_estimator_observations_total{result="learnt"} '
FAILED_ESTIMATING = 'astrolabe_length_estimator_failures_total{doing="estimating"} '
FAILED_OBSERVING = 'astrolabe_length_estimator_failures_total{doing="observing"} '
NESTED = b'{"more":' + DEEP + b"}"
ENDLESS_NUMBER = b'vllm:cache_config_info{num_gpu_blocks="%s",block_size="1"} 1' % (b"9" * 5000)
ABSURD_USAGE = b'data: {"usage":{"prompt_tokens":7,"completion_tokens":' + b"9" * 400 + b"}}\n\n"


@dataclass
class Misstating(ScriptedEngine):
    """An engine of which one page, its type included, is as a test tells it."""

    path: str = ""
    page: bytes = b""
    content_type: bytes = b"application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope.get("path") == self.path:
            headers: Headers = [(b"content-type", self.content_type)]
            await reply(send, 200, self.page, headers)
        else:
            await super().__call__(scope, receive, send)


async def comes_to(running: Fleet, line: str, least: float) -> None:
    """Wait until a metric has come so far."""

    async def has_come() -> bool:
        return await running.metric(line) >= least

    await eventually(has_come)


async def nest_deeply(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """An engine whose answer has a field that the gateway does not know, nested 100,000 deep."""
    await reply(send, 200, NESTED)


def fail(*given: object, **named: object) -> Any:
    """What nobody foresaw."""
    raise RuntimeError("unforeseen")


def give_nan(model: Recalibration, log_quantiles: Any) -> Any:
    """A correction that has lost its numbers."""
    return log_quantiles * float("nan")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a gateway with a tiny model."""
    folder = write_model_folder(tmp_path_factory.mktemp("model"))
    return {"length_estimator": str(folder), "length_deadline_ms": 20_000.0}


async def test_an_estimator_that_fails_costs_no_request(
    model: dict[str, Any], monkeypatch: Patch
) -> None:
    """Neither when it is asked nor when it is told of an answer; both are counted."""
    async with fleet(ScriptedEngine(), **model) as running:
        with monkeypatch.context() as broken:
            broken.setattr(OnlineEstimator, "try_estimate", fail)
            broken.setattr(OnlineEstimator, "observe", fail)
            await assert_all_are_answered(running)
            await comes_to(running, FAILED_ESTIMATING, 4)
            await comes_to(running, FAILED_OBSERVING, 4)
        await running.complete()
        assert (await running.decisions())[-1]["length_source"] == "model"


async def test_an_estimate_that_is_no_number_is_none(
    model: dict[str, Any], monkeypatch: Patch
) -> None:
    """Requests go by the running mean, and the admin API goes on showing them."""
    monkeypatch.setattr(Recalibration, "apply", give_nan)
    async with fleet(ScriptedEngine(), **model) as running:
        await running.complete()
        await comes_to(running, LEARNT, 1)
        await assert_all_are_answered(running)
        assert (await running.decisions())[-1]["length_source"] == "running_mean"


async def test_a_decision_log_that_fails_costs_no_request(monkeypatch: Patch) -> None:
    """It is put down beside their way, and what cannot be is counted."""
    async with fleet(ScriptedEngine(), ScriptedEngine()) as running:
        with monkeypatch.context() as broken:
            broken.setattr(DecisionLog, "add", fail)
            await assert_all_are_answered(running)
            await comes_to(running, 'astrolabe_unrecorded_total{what="decision"} ', 4)
        await running.complete()
        assert len(await running.decisions()) == 1


async def test_prices_that_cannot_be_had_cost_no_request(monkeypatch: Patch) -> None:
    """Units stay where they are, requests are answered, and each failure is counted."""
    async with crowd(ScriptedEngine(), ScriptedEngine()) as made:
        with monkeypatch.context() as broken:
            broken.setattr(Pricer, "price", fail)
            made.send(2, LONG)
            made.send(4, "hello")
            await eventually(lambda: metric_is(made, "astrolabe_pool_control_failures_total ", 2))


async def test_an_outcome_that_cannot_be_put_down_costs_no_request(monkeypatch: Patch) -> None:
    """The client has its answer by then; it is counted as answered, and the failure beside it."""
    monkeypatch.setattr(EstimatingCounter, "correct", fail)
    async with fleet(ScriptedEngine()) as running:
        await assert_all_are_answered(running)
        await comes_to(running, 'astrolabe_unrecorded_total{what="outcome"} ', 4)
        assert await running.metric(ANSWERED) == 4
        assert await running.metric(FAILED) == 0


@pytest.mark.parametrize(
    ("behave", "body"),
    [
        (nest_deeply, NESTED),
        (stream_of(EVENT, ABSURD_USAGE, DONE), EVENT + ABSURD_USAGE + DONE),
    ],
    ids=["nested", "absurd-usage"],
)
async def test_an_answer_that_cannot_be_read_is_passed_on(behave: Behaviour, body: bytes) -> None:
    """Byte for byte, and counted as the success that it is to the client."""
    async with fleet(ScriptedEngine(behave=behave)) as running:
        answer = await running.complete(stream=body != NESTED)
        assert (answer.status_code, answer.content) == (200, body)
        await comes_to(running, ANSWERED, 1)
        assert await running.metric(FAILED) == 0


@pytest.mark.parametrize(
    ("guilty", "is_healthy"),
    [
        (Misstating(path="/v1/models", page=NESTED), False),
        (Misstating(path="/metrics", page=b"x", content_type=b"text/plain; charset=hex"), True),
        (Misstating(path="/metrics", page=ENDLESS_NUMBER), True),
    ],
    ids=["nested", "no-text", "endless-number"],
)
async def test_what_one_engine_says_of_itself_stops_no_gateway(
    guilty: Misstating, is_healthy: bool
) -> None:
    """It starts, serves with the others, and says what is wrong with that one."""
    async with fleet(guilty, ScriptedEngine()) as running:
        await assert_all_are_answered(running)
        units = (await running.client.get("/admin/units")).json()
        assert [one["healthy"] for one in units] == [is_healthy, True]
        assert bool(units[0]["last_error"]) is not is_healthy
