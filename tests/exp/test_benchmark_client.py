"""The benchmark client: what it sends, and what it makes of each kind of answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from exp.benchmark_client import main, run
from exp.workloads.replay import Goals, Sent, Target, served_model
from exp.workloads.summary import summarise
from exp.workloads.trace import TracedRequest, TraceHeader, write_trace
from tests.emulator.process import MODEL, run_emulator
from tests.global_scheduler.fleet import Broken, ScriptedEngine, reply, serving, stream_of

CHUNK = b'data: {"choices":[{"text":"a"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'{"error":{"message":"told why","type":"api_error","param":null,"code":null}}'
Behaviour = Callable[[Scope, bytes, Receive, Send], Awaitable[None]]


def request(prompt: str | None = "hello", **changes: object) -> TracedRequest:
    """One request, sent at once."""
    fields = {"at_s": 0.0, "class": "short", "max_tokens": 4, "prompt": prompt} | changes
    return msgspec.convert({k: v for k, v in fields.items() if v is not None}, TracedRequest)


async def sent_to(behave: Behaviour, *requests: TracedRequest) -> tuple[list[Sent], ScriptedEngine]:
    """What becomes of requests, and the engine that got them."""
    engine = ScriptedEngine(behave=behave)
    async with serving(engine) as url:
        target = Target(base_url=url, model="m", deadline_s=5.0, api_key="secret")
        return await run(requests, target, lambda one: None), engine


def answering(status: int, body: bytes) -> Behaviour:
    """An engine that refuses."""

    async def behave(scope: Scope, body_: bytes, receive: Receive, send: Send) -> None:
        await reply(send, status, body)

    return behave


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("behave", "outcome", "error"),
    [
        (stream_of(CHUNK, CHUNK, USAGE, DONE), "ok", None),
        (stream_of(CHUNK[:9], CHUNK[9:] + CHUNK, USAGE + DONE), "ok", None),
        (answering(429, ERROR), "rejected", "HTTP 429: told why"),
        (answering(502, ERROR), "failed", "HTTP 502: told why"),
        (answering(500, b"oops"), "failed", "HTTP 500: not OpenAI's error JSON: b'oops'"),
        (stream_of(CHUNK, b"data: " + ERROR + b"\n\n", DONE), "failed", "told why"),
        (stream_of(CHUNK), "lost", "the stream broke off"),
        (stream_of(CHUNK, b"data: {\n\n"), "lost", "an event is not JSON"),
        (stream_of(CHUNK, then=Broken()), "lost", "ClientPayloadError"),
    ],
)
async def test_each_kind_of_answer_is_told_apart(
    behave: Behaviour, outcome: str, error: str | None
) -> None:
    """Only what was answered to its end counts as answered."""
    [one], _ = await sent_to(behave, request())
    assert one.outcome == outcome
    assert one.error is None if error is None else error in (one.error or "")
    assert one.is_good == (outcome == "ok")
    if outcome == "ok":
        assert (one.num_prompt_tokens, one.num_output_tokens, len(one.itl_ms)) == (7, 2, 1)
        assert one.tpot_ms == pytest.approx(one.e2e_ms - (one.ttft_ms or 0), abs=0.01)


@pytest.mark.anyio
async def test_silence_is_a_loss() -> None:
    """After the deadline, and where nobody listens."""

    async def never(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(ScriptedEngine(behave=never)) as url:
        target = Target(base_url=url, model="m", deadline_s=0.2)
        [late] = await run([request()], target, lambda one: None)
    [nobody] = await run([request()], target, lambda one: None)
    assert (late.outcome, late.error) == ("lost", "no end within 0.2 s")
    assert nobody.outcome == "lost"


@pytest.mark.anyio
async def test_a_request_carries_what_its_line_says() -> None:
    """Fields in the body, goals and session in headers, prompts as a chat or as token ids."""
    rich = request(
        user="u", session="s", priority=-1, slo_ttft_ms=5.0, slo_tpot_ms=2.5, ignore_eos=True
    )
    ids = request(None, num_prompt_tokens=50)
    _, engine = await sent_to(stream_of(CHUNK, USAGE, DONE), rich, ids)
    (headers, body), (_, other) = sorted(engine.requests, key=lambda one: b"messages" not in one[1])
    chat, completion = json.loads(body), json.loads(other)
    assert chat["messages"] == [{"role": "user", "content": "hello"}]
    assert (chat["user"], chat["priority"], chat["ignore_eos"]) == ("u", -1, True)
    assert chat["max_completion_tokens"] == completion["max_tokens"] == 4
    assert (headers["x-session-id"], headers["x-slo-ttft-ms"]) == ("s", "5.0")
    assert (headers["x-slo-tpot-ms"], headers["authorization"]) == ("2.5", "Bearer secret")
    assert len(set(completion["prompt"])) > 40


@pytest.mark.anyio
async def test_goodput_counts_answers_within_their_goals() -> None:
    """A request's own goal comes before that of its class; refusals are not good."""
    engine = ScriptedEngine(behave=stream_of(CHUNK, CHUNK, USAGE, DONE))
    requests = [request(), request(**{"class": "long"}), request(slo_ttft_ms=1e-3)]
    async with serving(engine) as url:
        goals = {"short": Goals(ttft_ms=4000.0), "long": Goals(tpot_ms=1e-4)}
        target = Target(base_url=url, model="m", goals=goals)
        figures = summarise(await run(requests, target, lambda one: None), duration_s=2.0)
    assert {name: part["goodput_share"] for name, part in figures.items()} == {
        "short": 0.5,
        "long": 0.0,
        "all": 0.3333,
    }
    assert figures["short"]["goodput_rps"] == 0.5
    assert figures["all"]["output_tokens"] == 6
    assert figures["long"]["ttft_ms_p50"] > 0


@pytest.mark.anyio
async def test_times_are_kept_and_can_be_scaled() -> None:
    """Requests go out when they should, even if earlier ones have not ended."""
    requests = [request(at_s=at_s) for at_s in (0.0, 0.2, 0.4)]
    async with serving(ScriptedEngine(behave=stream_of(CHUNK, USAGE, DONE))) as url:
        target = Target(base_url=url, model="m", time_scale=0.5)
        sent = await run(requests, target, lambda one: None)
    assert [one.at_s for one in sent] == [0.0, 0.1, 0.2]
    assert all(0 <= one.late_ms < 90 for one in sent)


def test_an_emulated_engine_does_exactly_the_work_of_the_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts and answers have the tokens that the trace names, and the file tells it."""
    lengths = [(40, 3), (200, 17), (9, 1)]
    requests = [
        request(None, num_prompt_tokens=prompt, max_tokens=output, ignore_eos=True)
        for prompt, output in lengths
    ]
    trace, result = tmp_path / "trace.jsonl", tmp_path / "sent.jsonl"
    write_trace(trace, TraceHeader(), requests)
    with run_emulator(tmp_path) as emulator:
        options = ["--trace", str(trace), "--url", emulator.url + "/v1", "--output", str(result)]
        assert main([*options, "--slo-ttft-ms", "short=60000"]) == 0
    lines = [msgspec.json.decode(line, type=Sent) for line in result.read_bytes().splitlines()]
    assert [(one.num_prompt_tokens, one.num_output_tokens) for one in lines] == lengths
    assert lines[2].tpot_ms is None
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["all"]["ok"], figures["short"]["goodput_share"]) == (3, 1.0)


@pytest.mark.anyio
async def test_the_model_is_asked_for(tmp_path: Path) -> None:
    """The first one served."""
    async with serving(ScriptedEngine(models=(MODEL,))) as url:
        assert await served_model(url) == MODEL


def test_nothing_to_send_or_nobody_to_send_it_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are said, with a status of their own."""
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, TraceHeader(), [])
    assert main(["--trace", str(trace)]) == 2
    write_trace(trace, TraceHeader(), [request()])
    assert main(["--trace", str(trace), "--url", "http://127.0.0.1:9"]) == 2
    told = capsys.readouterr().err
    assert "holds no requests" in told
    assert "http://127.0.0.1:9 cannot be used" in told
