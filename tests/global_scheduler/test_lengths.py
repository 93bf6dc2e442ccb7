"""Output lengths in a running gateway, estimated by a real ONNX model or by the running mean."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.job import TOLD_LEVELS
from tests.global_scheduler.fleet import (
    DONE,
    EVENT,
    Behaviour,
    Fleet,
    ScriptedEngine,
    eventually,
    fleet,
    reply,
    stream_of,
)
from tests.length_estimation.tiny_model import median_tokens, write_model_folder
from wire.length import LengthQuestion

pytestmark = pytest.mark.anyio

HEADER = "x-astrolabe-predicted-output-tokens"
PATIENT = 20_000.0
"""Milliseconds; a busy machine must not fail a test."""

PROMPTS: list[Any] = [
    *("", " ", "x" * 1_000_000, "\N{TELESCOPE}" * 1_000, "占星盘" * 1_000, "\x00\x1b[2J"),
    "def f(x):\n\treturn [x] * 2  # \\u",
    *([1, 2, 3], [[1, 2], [3]], ["one", "two"]),
]


def answering(num_tokens: int) -> Behaviour:
    """An engine's answer of so many tokens."""
    usage = {"prompt_tokens": 3, "completion_tokens": num_tokens}
    body = json.dumps({"choices": [{"text": "ok"}], "usage": usage}).encode()

    async def behave(scope: Scope, request: bytes, receive: Receive, send: Send) -> None:
        await reply(send, 200, body)

    return behave


async def without_usage(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """An engine's answer that says nothing about tokens."""
    await reply(send, 200, b'{"choices":[]}')


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a gateway with a tiny model."""
    folder = write_model_folder(tmp_path_factory.mktemp("model"))
    return {"length_estimator": str(folder), "length_deadline_ms": PATIENT}


async def lengths(running: Fleet) -> Any:
    """What the admin API tells."""
    return (await running.client.get("/admin/lengths")).json()


async def test_the_model_s_distribution_goes_everywhere(model: dict[str, Any]) -> None:
    """To the client, into the decision log, and to the sidecars that are asked and told."""
    engine = ScriptedEngine(behave=answering(50))
    async with fleet(engine, **model) as running:
        answer = await running.complete(prompt="how are you?")
        (decision,) = await running.decisions()
        await running.complete(prompt="how are you?")
        counted = await running.metric('astrolabe_length_estimates_total{source="model"}')
        told = await lengths(running)
    median = median_tokens(LengthQuestion(text="", num_prompt_tokens=3))
    assert answer.headers[HEADER] == str(round(median))
    assert decision["output_token_quantiles"]["0.5"] == pytest.approx(median)
    assert list(decision["output_token_quantiles"]) == ["0.1", "0.5", "0.9"]
    assert (decision["length_source"], counted) == ("model", 1)
    quantiles = engine.questions[0].requests[0].quantiles
    assert quantiles is not None
    assert tuple(quantiles) == TOLD_LEVELS
    assert quantiles["0.5"] == pytest.approx(median)
    assert (told["estimator"]["from_model"], told["estimator"]["from_cache"]) == (1, 1)


async def test_what_was_observed_stands_next_to_what_was_expected(model: dict[str, Any]) -> None:
    """In the decision log; error and place in the interval are counted."""
    engine = ScriptedEngine(behave=answering(5_000))
    async with fleet(engine, **model) as running:
        await running.complete()

        async def noted() -> bool:
            return bool((await running.decisions())[0]["observed_output_tokens"] == 5_000)

        await eventually(noted)
        labels = '{model="m",position="above"}'
        assert await running.metric(f"astrolabe_length_interval_total{labels}") == 1
        labels = '{model="m",source="model"}'
        assert await running.metric(f"astrolabe_length_error_tokens_count{labels}") == 1
        assert await running.metric("astrolabe_length_estimator_loaded") == 1


async def test_a_passed_deadline_leaves_it_to_the_running_mean(tmp_path: Path) -> None:
    """The request goes on without the model, and the metrics say why."""
    folder = write_model_folder(tmp_path / "slow", num_slow_rounds=1500)
    engine = ScriptedEngine(behave=answering(70))
    settings = {"length_estimator": str(folder), "length_deadline_ms": 1.0}
    async with fleet(engine, **settings) as running:
        first = await running.complete(prompt="first", max_tokens=90)
        assert first.headers[HEADER] == "90"
        second = await running.complete(prompt="second", max_tokens=90)
        assert second.headers[HEADER] == "70"
        reason = '{reason="deadline"}'
        assert await running.metric(f"astrolabe_length_estimator_misses_total{reason}") == 2
        source = '{source="running_mean"}'
        assert await running.metric(f"astrolabe_length_estimates_total{source}") == 1
        assert await running.metric("astrolabe_length_estimation_seconds_count") == 2


async def test_a_model_that_fails_costs_no_request(model: dict[str, Any]) -> None:
    """Its run ends with an error; the running mean answers."""
    engine = ScriptedEngine(models=("model-that-fails",))
    async with fleet(engine, **model) as running:
        answer = await running.complete(model="model-that-fails", max_tokens=9)
        assert (answer.status_code, answer.headers[HEADER]) == (200, "9")
        reason = '{reason="failed"}'
        assert await running.metric(f"astrolabe_length_estimator_misses_total{reason}") == 1


async def test_policies_that_need_no_length_pay_for_none(model: dict[str, Any]) -> None:
    """The model is not asked."""
    async with fleet(ScriptedEngine(), **model) as running:
        for policy in ("round_robin", "random", "least_outstanding"):
            await running.client.put("/admin/policy", json={"policy": policy})
            await running.complete(max_tokens=9)
        decisions = await running.decisions()
        assert [decision["output_token_quantiles"] for decision in decisions] == [{}, {}, {}]
        assert await running.metric("astrolabe_length_estimation_seconds_count") == 0


@pytest.mark.parametrize(
    "rules", [{"pools": "static"}, {"queue_order": "sjf", "worker_concurrency_limit": 4}]
)
async def test_queues_that_go_by_lengths_have_them_estimated_whatever_the_policy(
    model: dict[str, Any], rules: dict[str, Any]
) -> None:
    """For classes, and for who goes next where requests may have to wait; also when switched to."""
    async with fleet(ScriptedEngine(), **(model | {"policy": "round_robin"})) as running:
        await running.client.put("/admin/pools", json={"queue_order": "sjf"})
        await running.complete(max_tokens=9)  # nothing waits: nobody cares how long it gets
        assert await running.metric("astrolabe_length_estimation_seconds_count") == 0
        await running.client.put("/admin/pools", json={"queue_order": "fifo"} | rules)
        await running.complete(max_tokens=9)
        assert await running.metric("astrolabe_length_estimation_seconds_count") == 1


async def test_any_prompt_is_served(model: dict[str, Any]) -> None:
    """As a completion and, if it is a text, as a chat of one message or one part."""
    async with fleet(ScriptedEngine(behave=without_usage), **model) as running:
        for prompt in PROMPTS:
            answers = [await running.complete(prompt=prompt)]
            for content in (prompt, [{"type": "text", "text": prompt}]):
                if isinstance(prompt, str):
                    chat = {"model": "m", "messages": [{"role": "user", "content": content}]}
                    answers.append(await running.client.post("/v1/chat/completions", json=chat))
            assert {answer.status_code for answer in answers} == {200}, prompt[:20]
        told = (await lengths(running))["estimator"]
        assert told["not_estimated"] == {}
        assert told["from_model"] + told["from_cache"] == 6 * 3 + 1  # those with text


async def test_what_is_no_text_is_a_bad_request(model: dict[str, Any]) -> None:
    """Lone surrogates and bytes that are not UTF-8 are refused, and the next request is served."""
    async with fleet(ScriptedEngine(), **model) as running:
        for text in (rb"\ud800", rb"\udc00 and on", b"\xff\xfe", b"\xed\xa0\x80"):
            body = b'{"model":"m","messages":[{"role":"user","content":"' + text + b'"}]}'
            answer = await running.client.post("/v1/chat/completions", content=body)
            assert answer.status_code == 400
        assert (await running.complete()).status_code == 200


async def test_token_ids_are_no_text_to_estimate_from(model: dict[str, Any]) -> None:
    """The running mean answers."""
    async with fleet(ScriptedEngine(), **model) as running:
        assert (await running.complete(prompt=[1, 2, 3], max_tokens=9)).headers[HEADER] == "9"


async def test_estimates_follow_a_model_that_answers_at_three_times_the_length(
    model: dict[str, Any],
) -> None:
    """The error falls as answers come in, to a tenth of what it was."""
    median = median_tokens(LengthQuestion(text="", num_prompt_tokens=3))
    engine = ScriptedEngine(behave=answering(round(3 * median)))
    async with fleet(engine, **model) as running:
        predicted = [
            int((await running.complete(prompt=f"question {i:03d}")).headers[HEADER])
            for i in range(80)
        ]
        told = (await lengths(running))["estimator"]["recalibrations"]["m"]
        last = (await running.decisions())[-1]
    errors = [abs(tokens - 3 * median) for tokens in predicted]
    assert errors[0] == pytest.approx(2 * median, abs=1)
    assert max(errors[-10:]) < errors[0] / 10
    assert told["factor"] == pytest.approx(3, rel=0.1)
    assert last["length_source"] == "model_recalibrated"


@pytest.mark.parametrize(
    ("behave", "body"),
    [
        (answering(90), {"n": 2}),
        (answering(90), {"prompt": ["one", "two"]}),
        (answering(0), {}),
        (answering(10**9), {}),
        (stream_of(EVENT, b'data: {"error":{"message":"no"}}\n\n', DONE), {"stream": True}),
    ],
)
async def test_only_whole_single_answers_teach(
    behave: Behaviour, body: dict[str, Any], model: dict[str, Any]
) -> None:
    """Not several sequences at once, absurd counts, or what broke off."""
    async with fleet(ScriptedEngine(behave=behave), **model) as running:
        await running.complete(**body)

        async def ended() -> bool:
            return (await running.decisions())[0]["status"] is not None

        await eventually(ended)
        told = await lengths(running)
        assert (told["estimator"]["num_observed"], told["running_mean_tokens"]) == (0, {})


async def test_the_running_mean_stands_in_for_a_default_model_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning and a metric."""
    monkeypatch.setattr("global_scheduler.lengths.DEFAULT_FOLDER", tmp_path / "absent")
    with caplog.at_level(logging.WARNING):
        async with fleet(ScriptedEngine(), length_estimator="default") as running:
            answer = await running.complete(max_tokens=9)
            assert (answer.status_code, answer.headers[HEADER]) == (200, "9")
            metrics = (await running.client.get("/metrics")).text
            assert "astrolabe_length_estimator_loaded 0.0" in metrics
            assert (await lengths(running))["estimator"] is None
    assert str(tmp_path / "absent") in caplog.text


def run_gateway(folder: Path) -> tuple[int, str]:
    """Start one that cannot start; exit status and errors."""
    ended = subprocess.run(
        [sys.executable, "-m", "global_scheduler", f"--length-estimator={folder}"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json", "config.json"])
def test_a_damaged_model_is_told_at_the_start(file: str, tmp_path: Path) -> None:
    """The error names the file, and nothing is served."""
    folder = write_model_folder(tmp_path / "damaged")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    status, errors = run_gateway(folder)
    assert status == 2
    assert errors.startswith(f"error: {folder / file}")
    assert errors.count("\n") == 1


def test_a_missing_model_is_told_at_the_start(tmp_path: Path) -> None:
    """A folder that was asked for must be there."""
    status, errors = run_gateway(tmp_path / "absent")
    assert status == 2
    assert str(tmp_path / "absent") in errors
