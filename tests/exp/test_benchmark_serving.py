"""The load generator: what it sends, and what it makes of each kind of answer."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from exp.benchmark.benchmark_serving import main
from exp.benchmark.vllm_results import vllm_result
from exp.study.tables import read_table, to_records
from exp.workloads.replay import Goals, Sent, Target, send_all, served_model
from exp.workloads.request_bodies import token_ids
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
        target = Target(base_url=url, model="m", deadline_s=60.0, api_key="secret")
        return await send_all(requests, target, "run"), engine


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
        [late] = await send_all([request()], target, "run")
    [nobody] = await send_all([request()], target, "run")
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
        figures = summarise(await send_all(requests, target, "run"), duration_s=2.0)
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
    num_arrived, all_are_there = 0, asyncio.Event()

    async def wait_for_all(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        nonlocal num_arrived
        num_arrived += 1
        if num_arrived == len(requests):
            all_are_there.set()
        await all_are_there.wait()
        await stream_of(CHUNK, USAGE, DONE)(scope, body, receive, send)

    async with serving(ScriptedEngine(behave=wait_for_all)) as url:
        target = Target(base_url=url, model="m", time_scale=0.5)
        sent = await send_all(requests, target, "run")
    assert [one.at_s for one in sent] == [0.0, 0.1, 0.2]
    assert all(one.outcome == "ok" and one.late_ms >= 0 for one in sent)


@pytest.mark.anyio
async def test_no_more_than_so_many_at_a_time() -> None:
    """The others wait, and their latencies begin when they are sent."""
    running, most = 0, 0

    async def slow(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.05)
        running -= 1
        await stream_of(CHUNK, USAGE, DONE)(scope, body, receive, send)

    async with serving(ScriptedEngine(behave=slow)) as url:
        target = Target(base_url=url, model="m", max_concurrency=2)
        began_s = time.monotonic()
        sent = await send_all([request() for _ in range(6)], target, "run")
        took_ms = (time.monotonic() - began_s) * 1e3
    assert most == 2
    assert max(one.late_ms for one in sent) > 90
    assert all(one.late_ms + one.e2e_ms <= took_ms for one in sent)


@given(hashes=st.lists(st.integers(0, 2**63 - 1), max_size=5), count=st.integers(0, 99))
def test_equal_hashes_make_equal_token_ids(hashes: list[int], count: int) -> None:
    """What no hash stands for is drawn anew."""
    ids, again = (token_ids(hashes, count, random.Random(seed)) for seed in (1, 2))
    known = min(16 * len(hashes), count)
    assert len(ids) == len(again) == count
    assert ids[:known] == again[:known]
    assert all(1_000 <= one < 30_000 for one in ids)
    assert ids[known:] != again[known:] or count - known < 3


@pytest.mark.anyio
async def test_runs_share_prefixes_within_themselves_only() -> None:
    """What one run has left in the caches is of no use to the next, unless it has its name."""
    engine = ScriptedEngine(behave=stream_of(CHUNK, USAGE, DONE))
    shared = request(None, num_prompt_tokens=32, block_hashes=(5, 6))
    async with serving(engine) as url:
        for run_id in ("a", "a", "b"):
            await send_all([shared, shared], Target(base_url=url, model="m"), run_id)
    prompts = [json.loads(body)["prompt"] for _, body in engine.requests]
    assert prompts[0] == prompts[1] == prompts[2] == prompts[3]
    assert prompts[4] == prompts[5]
    assert not set(prompts[0]) & set(prompts[4])


def test_an_emulated_engine_does_exactly_the_work_of_the_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts and answers have the tokens that the trace names, and both files tell it."""
    lengths = [(40, 3), (200, 17), (9, 1), (64, 5)]
    requests = [
        request(None, num_prompt_tokens=prompt, max_tokens=output, ignore_eos=True)
        for prompt, output in lengths[:3]
    ]
    requests.append(request(None, num_prompt_tokens=64, max_tokens=99, answer_tokens=5))
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, TraceHeader(), requests)
    with run_emulator(tmp_path) as emulator:
        options = ["--dataset-name", "trace", "--dataset-path", str(trace)]
        options += ["--base-url", emulator.url + "/v1", "--num-warmups", "2", "--save-detailed"]
        options += ["--result-dir", str(tmp_path), "--result-filename", "result.json"]
        assert main([*options, "--goodput", "ttft:60000", "short:e2el:60000"]) == 0
    result = json.loads((tmp_path / "result.json").read_bytes())
    assert list(zip(result["input_lens"], result["output_lens"], strict=True)) == lengths
    assert (result["completed"], result["failed"], result["num_prompts"]) == (4, 0, 4)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (313, 26)
    assert result["request_goodput"] == result["request_throughput"] == 4 / result["duration"]
    assert result["by_class"]["short"]["goodput_share"] == 1.0
    records = to_records(read_table(tmp_path / "result.parquet")[0])
    assert [(one.num_prompt_tokens, one.num_output_tokens) for one in records] == lengths
    assert records[2].tpot_ms is None
    assert records[0].ttft_ms == pytest.approx(result["ttfts"][0] * 1e3)
    assert "4 requests in" in capsys.readouterr().out


def test_figures_are_those_of_vllms_benchmark() -> None:
    """By hand: means and percentiles over answered requests, a TPOT from two tokens on."""
    answers = [
        sent(0, ttft_ms=100.0, itl_ms=[10.0, 30.0], num_output_tokens=3),
        sent(1, ttft_ms=300.0, itl_ms=[], num_output_tokens=1, at_s=0.5),
        sent(2, outcome="failed", ttft_ms=None, itl_ms=[], num_output_tokens=0),
    ]
    found = vllm_result(answers, 2.0, (50.0, 99.0), has_goals=True)
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (2, 1, 4)
    assert (found["request_throughput"], found["request_goodput"]) == (1.0, 1.0)
    assert (found["mean_ttft_ms"], found["p50_ttft_ms"]) == (200.0, 200.0)
    assert found["std_ttft_ms"] == 100.0
    assert found["p99_ttft_ms"] == pytest.approx(298.0)
    assert found["mean_tpot_ms"] == found["mean_itl_ms"] == 20.0
    assert found["mean_e2el_ms"] == pytest.approx((140 + 300) / 2)
    assert (found["max_output_tokens_per_s"], found["max_concurrent_requests"]) == (4.0, 2)


def sent(index: int, *, ttft_ms: float | None, itl_ms: list[float], **changes: Any) -> Sent:
    """What came of a request."""
    e2e_ms = (ttft_ms or 0.0) + sum(itl_ms)
    outcome = changes.pop("outcome", "ok")
    fields = {
        "request_class": "short",
        "at_s": 0.0,
        "late_ms": 0.0,
        "status": 200,
        "error": None,
        "unit": None,
        "num_prompt_tokens": 7,
        "tpot_ms": sum(itl_ms) / len(itl_ms) if itl_ms else None,
        "is_good": outcome == "ok",
    }
    return Sent(
        index=index,
        request_id=f"r-{index}",
        outcome=outcome,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        e2e_ms=e2e_ms,
        **(fields | changes),
    )


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
    options = ["--dataset-name", "trace", "--dataset-path", str(trace)]
    write_trace(trace, TraceHeader(), [])
    assert main(options) == 2
    write_trace(trace, TraceHeader(), [request()])
    assert main([*options, "--base-url", "http://127.0.0.1:9"]) == 2
    assert main(["--dataset-name", "burstgpt", "--dataset-path", "nowhere.csv"]) == 2
    told = capsys.readouterr().err
    assert "holds no requests" in told
    assert "http://127.0.0.1:9 cannot be used" in told
    assert "nowhere.csv: No such file" in told


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--goodput", "speed:5"), "must be like ttft:500"),
        (("--goodput", "a:b:ttft:5"), "must be like ttft:500"),
        (("--request-rate", "0"), "a number above 0, not '0'"),
        (("--long-share", "1.5"), "a share from 0 to 1"),
        (("--metric-percentiles", "50,101"), "at most 100"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], option: tuple[str, str], said: str
) -> None:
    """With the value that is wrong."""
    with pytest.raises(SystemExit):
        main(option)
    assert said in capsys.readouterr().err
