"""The emulator as its clients see it, over HTTP with the official client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionContentPartTextParam, ChatCompletionMessageParam

from tests.emulator.process import MODEL, ROOT, RunningEmulator, environment, run_emulator


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """One server for the tests of this file."""
    with run_emulator(tmp_path_factory.mktemp("emulator"), "--seed", "1") as running:
        yield running


@pytest.fixture
def client(emulator: RunningEmulator) -> Iterator[openai.OpenAI]:
    """The official client, without retries."""
    with make_client(emulator) as made:
        yield made


def make_client(emulator: RunningEmulator) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{emulator.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_completion(client: openai.OpenAI) -> None:
    """A plain completion has text, a reason and the token counts; the default is 16 tokens."""
    answer = client.completions.create(model=MODEL, prompt="Hello, world")
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].text.split()) == 16
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 16)
    assert answer.usage.total_tokens == 19


def test_streamed_completion_equals_the_plain_one(client: openai.OpenAI) -> None:
    """One chunk a token, the reason in the last one, the same text as without streaming."""
    plain = client.completions.create(model=MODEL, prompt="Once", max_tokens=30)
    chunks = list(client.completions.create(model=MODEL, prompt="Once", max_tokens=30, stream=True))
    assert len(chunks) == 30
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 29 + ["length"]


def test_stream_with_usage(client: openai.OpenAI) -> None:
    """``include_usage`` adds a chunk without choices before the end."""
    stream = client.completions.create(
        model=MODEL,
        prompt="Once",
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(chunks) == 5


def test_chat_streamed_and_not(client: openai.OpenAI) -> None:
    """A chat ends by itself at a length that depends on the prompt alone."""
    ask: ChatCompletionMessageParam = {"role": "user", "content": "Where is north?"}
    plain = client.chat.completions.create(model=MODEL, messages=[ask])
    chunks = list(client.chat.completions.create(model=MODEL, messages=[ask], stream=True))
    assert plain.id.startswith("chatcmpl-")
    assert plain.choices[0].finish_reason == "stop"
    assert plain.usage is not None
    assert plain.usage.completion_tokens == len(chunks) - 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_max_completion_tokens(client: openai.OpenAI) -> None:
    """The newer name of the limit holds for chats."""
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=3
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_content_parts_count_like_one_text(client: openai.OpenAI) -> None:
    """A message in parts gets the answer that its joined text gets."""
    parts: list[ChatCompletionContentPartTextParam] = [
        {"type": "text", "text": "Where is "},
        {"type": "text", "text": "north?"},
    ]
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": parts},
        {"role": "user", "content": "Where is north?"},
    ]
    answers = [
        client.chat.completions.create(model=MODEL, messages=[message], max_tokens=9)
        for message in messages
    ]
    assert answers[0].choices[0].message == answers[1].choices[0].message
    assert answers[0].usage == answers[1].usage


def test_ignore_eos_gives_exactly_max_tokens(client: openai.OpenAI) -> None:
    """Without an end of its own, an answer runs to the limit."""
    answer = client.completions.create(
        model=MODEL, prompt="Hi", max_tokens=700, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 700
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_an_answer(client: openai.OpenAI, stream: bool) -> None:
    """Text ends just before the first stop string, even one that spans tokens."""
    full = client.completions.create(model=MODEL, prompt="Hi", max_tokens=40).choices[0].text
    words = full.split()
    stop = f"{words[7][-1]} {words[8][:2]}"
    expected = full[: full.index(stop)]
    answer = client.completions.create(
        model=MODEL, prompt="Hi", max_tokens=40, stop=[stop, "never"], stream=stream
    )
    if isinstance(answer, openai.Stream):
        chunks = list(answer)
        assert "".join(chunk.choices[0].text for chunk in chunks) == expected
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert answer.choices[0].text == expected
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].model_extra == {"stop_reason": stop}


def test_models_and_health(emulator: RunningEmulator, client: openai.OpenAI) -> None:
    """The list of models has the one that is served, with its context length."""
    assert emulator.get("/health") == ""
    (card,) = client.models.list().data
    assert card.id == MODEL
    assert card.model_extra is not None
    assert card.model_extra["max_model_len"] == 2048


BAD_REQUESTS = [
    ({"model": "nobody"}, 404, "NotFoundError", "The model `nobody` does not exist."),
    ({"max_tokens": -1}, 400, "BadRequestError", "max_tokens must be at least 1, got -1."),
    ({"prompt": "word" * 2048}, 400, "BadRequestError", "maximum context length is 2048 tokens"),
    ({"n": 2}, 400, "BadRequestError", "n must be 1, got 2."),
    ({"prompt": ["a", "b"]}, 400, "BadRequestError", "prompt must be a string"),
    ({"prompt": [-1]}, 400, "BadRequestError", "prompt must be a string"),
    ({"prompt": None}, 400, "BadRequestError", "Either prompt"),
    ({"stop": [""]}, 400, "BadRequestError", "stop cannot contain an empty string"),
    ({"max_tokens": "many"}, 400, "BadRequestError", "Expected `int | null`, got `str`"),
    ({"priority": 1}, 400, "BadRequestError", "Priority scheduling is not enabled"),
    ({"stream_options": {}}, 400, "BadRequestError", "Stream options can only be defined"),
]


@pytest.mark.parametrize(("change", "status", "type", "message"), BAD_REQUESTS)
def test_bad_requests(
    client: openai.OpenAI, change: dict[str, object], status: int, type: str, message: str
) -> None:
    """Each bad field gets OpenAI's error JSON with vLLM's status and a message that names it."""
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 1} | change
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/completions", body=body, cast_to=object)
    error = caught.value.body
    assert caught.value.status_code == status
    assert isinstance(error, dict)
    assert (error["type"], error["code"]) == (type, status)
    assert message in error["message"]


def test_malformed_json_and_unknown_path(emulator: RunningEmulator) -> None:
    """Neither crashes the server; both get error JSON."""
    for body in (b'{"model": ', b'{"prompt": "\xff"}', b'{"prompt": ' + b"[" * 9000, b"[]", b""):
        assert raw_post(emulator, "/v1/completions", body)[0] == 400
    status, body = raw_post(emulator, "/v1/nothing", b"{}")
    assert (status, json.loads(body)["error"]["type"]) == (404, "NotFoundError")


def test_request_ids_are_vllms(emulator: RunningEmulator, client: openai.OpenAI) -> None:
    """``X-Request-Id`` becomes part of the answer's id and of the engine's id."""
    with client.completions.create(
        model=MODEL,
        prompt="Hi",
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers={"X-Request-Id": "abc"},
    ) as stream:
        assert next(iter(stream)).id == "cmpl-abc"
        (running,) = emulator.snapshot().running
    assert running.request_id.startswith("cmpl-abc-0-")
    assert len(running.request_id) == len("cmpl-abc-0-") + 8
    assert (running.num_prompt_tokens, running.max_tokens) == (1, 1500)
    wait_until(lambda: not emulator.snapshot().running)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_blocks(emulator: RunningEmulator, stream: bool) -> None:
    """An abort takes effect before the next step, with streaming and without."""
    aborted = emulator.metric("vllm:request_success_total")
    body = {"model": MODEL, "prompt": "Hi" * 99, "max_tokens": 1900, "stream": stream}
    connection = open_post(
        emulator, "/v1/completions", json.dumps(body | {"ignore_eos": True}).encode()
    )
    wait_until(lambda: len(emulator.snapshot().running) == 1)
    connection.close()
    wait_until(lambda: not emulator.snapshot().running)
    assert emulator.snapshot().num_free_blocks == 256
    assert emulator.metric("vllm:request_success_total") == aborted + 1
    assert 'finished_reason="abort"' in emulator.get("/metrics")


def test_metrics_have_vllms_names(emulator: RunningEmulator, client: openai.OpenAI) -> None:
    """Counters count what was done, and the cache's size is told in labels."""
    before = {name: emulator.metric(name) for name in COUNTERS}
    client.completions.create(model=MODEL, prompt="x" * 400, max_tokens=20)
    client.completions.create(model=MODEL, prompt="x" * 400, max_tokens=20)
    grown = {name: emulator.metric(name) - before[name] for name in COUNTERS}
    assert grown == {
        "vllm:prompt_tokens_total": 200,
        "vllm:generation_tokens_total": 40,
        "vllm:time_to_first_token_seconds_count": 2,
        "vllm:e2e_request_latency_seconds_count": 2,
        "vllm:prefix_cache_queries_total": 200,
        # The second prompt finds six whole blocks.
        "vllm:prefix_cache_hits_total": 96,
        "vllm:num_preemptions_total": 0,
    }
    assert emulator.metric("vllm:num_requests_running") == 0
    assert emulator.metric("vllm:num_requests_waiting") == 0
    assert emulator.metric("vllm:kv_cache_usage_perc") == 0
    assert 'block_size="16"' in emulator.get("/metrics")
    assert 'num_gpu_blocks="257"' in emulator.get("/metrics")


COUNTERS = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_to_first_token_seconds_count",
    "vllm:e2e_request_latency_seconds_count",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
)


def test_snapshot_tells_the_engines_state(emulator: RunningEmulator, client: openai.OpenAI) -> None:
    """Limits, sequences, blocks, the batch in flight and recent steps are all there."""
    with client.completions.create(
        model=MODEL, prompt="y" * 400, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        for _ in range(3):
            next(iter(stream))
        snapshot = emulator.snapshot()
    (running,) = snapshot.running
    assert snapshot.limits.num_gpu_blocks == 256
    assert snapshot.limits.max_num_batched_tokens == 256
    assert running.num_blocks == 256 - snapshot.num_free_blocks
    assert running.num_tokens > 100
    (flight,) = snapshot.in_flight
    assert flight.num_scheduled_tokens == {running.request_id: 1}
    assert abs(snapshot.time - time.time()) < 60
    last = snapshot.recent_steps[-1]
    assert (last.num_decode_seqs, last.num_decode_tokens, last.num_prefill_seqs) == (1, 1, 0)
    assert last.duration_s > 0.001


def test_bad_options_are_refused_by_name(tmp_path: Path) -> None:
    """A wrong configuration ends the program with a message that names key and value."""
    config = tmp_path / "bad_config.json"
    config.write_text('{"model_name": "m", "chunk": 5}')
    started = {}
    for options, message in (
        (["--model-config", str(config)], "chunk: Extra inputs are not permitted (got 5)"),
        (["--model-config", "config/llama_config.json", "--gpu", "A31"], "unknown GPU 'A31'"),
        (["--model-config", "config/llama_config.json", "--speed", "0"], "got '0'"),
    ):
        command = [sys.executable, "-m", "exp.emulator", *options]
        started[message] = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
        )
    for message, process in started.items():
        _, said = process.communicate(timeout=240)
        assert process.returncode != 0
        assert message in said
        assert "Traceback" not in said


def open_post(emulator: RunningEmulator, path: str, body: bytes) -> socket.socket:
    """Send a request and leave the connection open."""
    host, port = emulator.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def raw_post(emulator: RunningEmulator, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of an answer to any bytes."""
    with open_post(emulator, path, body) as connection:
        head, _, rest = connection.recv(65536).partition(b"\r\n\r\n")
        while not rest:
            rest = connection.recv(65536)
    return int(head.split()[1]), rest


def wait_until(condition: object, deadline_s: float = 60.0) -> None:
    """Poll until ``condition()`` holds."""
    assert callable(condition)
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
