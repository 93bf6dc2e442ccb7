"""A real gateway in front of engines that behave as a test tells them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import msgspec
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from global_scheduler.app import App, create_app
from global_scheduler.serving import CONTROL_SOCKET, serving_options
from global_scheduler.settings import GatewaySettings
from global_scheduler.workers.processes import Workers
from wire.prediction import (
    BacklogItem,
    BacklogPrediction,
    BacklogRequest,
    PredictBatchRequest,
    PredictBatchResponse,
    Prediction,
)

Headers = list[tuple[bytes, bytes]]
JSON_HEADERS: Headers = [(b"content-type", b"application/json")]
SSE_HEADERS: Headers = [(b"content-type", b"text/event-stream")]
COMPLETION = (
    b'{"id":"c","choices":[{"text":"ok"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
)
EVENT = b'data: {"id":"c","choices":[{"text":"a"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Broken(Exception):
    """Raised inside a scripted engine to break the connection off."""


@asynccontextmanager
async def serving(app: ASGIApp, path: str | None = None, **options: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port, or a Unix socket; gives the URL of the port.

    ``options`` are further ones of uvicorn.
    """
    quiet: dict[str, Any] = {"log_level": "critical", "access_log": False}
    config = uvicorn.Config(app, port=0, uds=path, **(quiet | options))
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    loop = asyncio.ensure_future(server.main_loop())
    try:
        yield "" if path else _url_of(server.servers[0].sockets[0])
    finally:
        server.should_exit = server.force_exit = True
        await loop
        await server.shutdown()


def _url_of(listener: Any) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


Behaviour = Callable[[Scope, bytes, Receive, Send], Awaitable[None]]


async def whole(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Answer at once."""
    await reply(send, 200, COMPLETION)


async def reply(send: Send, status: int, body: bytes, headers: Headers = JSON_HEADERS) -> None:
    """Send a complete response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def stream_of(*chunks: bytes, then: Exception | None = None) -> Behaviour:
    """Stream the chunks, then break off or end."""

    async def behave(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if then is not None:
            raise then
        await send({"type": "http.response.body", "body": b""})

    return behave


@dataclass
class ScriptedEngine:
    """An engine and its sidecar.

    ``behave`` answers generations. ``predict`` predicts E2E in ms, unless ``answer_questions``
    stands in for that part of the sidecar; ``predict_backlog`` and ``answer_backlogs`` do the same
    for backlogs.
    """

    behave: Behaviour = whole
    predict: Callable[[PredictBatchRequest], float] = lambda batch: 100.0
    answer_questions: Behaviour | None = None
    predict_backlog: Callable[[BacklogRequest], BacklogPrediction] = lambda asked: worked_off(asked)
    answer_backlogs: Behaviour | None = None
    models: tuple[str, ...] = ("m",)
    healthy: bool = True
    metrics: bytes = b""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    questions: list[PredictBatchRequest] = field(default_factory=list)
    backlogs: list[BacklogRequest] = field(default_factory=list)
    aborted: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            return
        body = await _body(receive)
        if scope["path"] == "/health":
            await reply(send, 200 if self.healthy else 503, b"{}")
        elif scope["path"] == "/v1/models":
            cards = [{"id": model, "object": "model"} for model in self.models]
            await reply(send, 200, json.dumps({"data": cards}).encode())
        elif scope["path"] == "/metrics":
            await reply(send, 200, self.metrics)
        elif scope["path"] == "/predict/batch":
            await self._predict(scope, body, receive, send)
        elif scope["path"] == "/predict/backlog":
            await self._predict_backlog(scope, body, receive, send)
        else:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.requests.append((headers, body))
            await self.behave(scope, body, receive, send)

    async def _predict(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        batch = msgspec.json.decode(body, type=PredictBatchRequest)
        self.questions.append(batch)
        if self.answer_questions is not None:
            await self.answer_questions(scope, body, receive, send)
            return
        answers = [
            prediction(e2e_ms=self.predict(batch), request_id=question.request_id)
            for question in batch.requests
        ]
        await reply(send, 200, msgspec.json.encode(PredictBatchResponse(predictions=answers)))

    async def _predict_backlog(
        self, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        backlog = msgspec.json.decode(body, type=BacklogRequest)
        self.backlogs.append(backlog)
        if self.answer_backlogs is not None:
            await self.answer_backlogs(scope, body, receive, send)
        else:
            await reply(send, 200, msgspec.json.encode(self.predict_backlog(backlog)))


def worked_off(backlog: BacklogRequest, num_slo_broken: int = 0) -> BacklogPrediction:
    """One request after the other, a token of prompt or output in a millisecond."""
    items, now_ms = [], 0.0
    for request in backlog.requests:
        ttft_ms = now_ms + request.num_prompt_tokens
        e2e_ms = ttft_ms + (request.expected_output_tokens or 0.0)
        items.append(
            BacklogItem(
                request_id=request.request_id,
                queue_ms=now_ms,
                ttft_ms=ttft_ms,
                tpot_ms=1.0,
                e2e_ms=e2e_ms,
            )
        )
        now_ms = ttft_ms
    return BacklogPrediction(
        requests=items,
        drain_ms=max((item.e2e_ms for item in items), default=0.0),
        added_delay_others_ms=0.0,
        num_slo_broken=num_slo_broken,
        state_source="plugin",
        state_age_ms=1.0,
        time_to_predict_ms=0.1,
    )


def prediction(**given: Any) -> Prediction:
    """A prediction, with fields of no interest filled in."""
    fields: dict[str, Any] = {
        "request_id": "r",
        "queue_ms": 0.0,
        "ttft_ms": 10.0,
        "tpot_ms": 1.0,
        "e2e_ms": 100.0,
        "added_delay_others_ms": 0.0,
        "kv_blocks_free": 100,
        "kv_blocks_total": 100,
        "kv_blocks_wanted": 0,
        "num_running": 0,
        "num_waiting": 0,
        "num_preempted": 0,
        "num_unprocessed_tokens": 0,
        "state_source": "plugin",
        "state_age_ms": 1.0,
        "backend": "scripted",
        "time_to_predict_ms": 0.1,
    }
    return Prediction(**(fields | given))


def predicting(**fields: Any) -> Behaviour:
    """A sidecar's answer to questions: always the same prediction."""

    async def behave(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        batch = msgspec.json.decode(body, type=PredictBatchRequest)
        answers = [prediction(request_id=one.request_id, **fields) for one in batch.requests]
        await reply(send, 200, msgspec.json.encode(PredictBatchResponse(predictions=answers)))

    return behave


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


@dataclass
class Fleet:
    """A running gateway and its engines."""

    client: httpx.AsyncClient
    app: App
    engines: list[ScriptedEngine]

    async def complete(self, **body: Any) -> httpx.Response:
        """One completion request."""
        headers = body.pop("headers", {})
        fields = {"model": "m", "prompt": "hello"} | body
        return await self.client.post("/v1/completions", json=fields, headers=headers)

    async def decisions(self) -> list[dict[str, Any]]:
        """The decision log."""
        answer: list[dict[str, Any]] = (await self.client.get("/admin/decisions")).json()
        return answer

    async def metric(self, line: str) -> float:
        """The value of a metric line, 0 if it is not there."""
        text = (await self.client.get("/metrics")).text
        return next((float(x[len(line) :]) for x in text.splitlines() if x.startswith(line)), 0.0)


@asynccontextmanager
async def fleet(*engines: ScriptedEngine, **settings: Any) -> AsyncIterator[Fleet]:
    """Engines named u0, u1, ... behind a gateway."""
    async with _all_serving(engines) as urls:
        units = [f"u{index}={url},{url}" for index, url in enumerate(urls)]
        defaults: dict[str, Any] = {
            "health_interval_s": 0.05,
            "health_timeout_s": 20.0,
            "prediction_deadline_ms": 20_000.0,  # a busy machine must not fail a test
            "length_estimator": "none",
            "seed": 1,
        }
        chosen = GatewaySettings(unit=units, **(defaults | settings))
        async with (
            _gateway(chosen) as (app, url),
            httpx.AsyncClient(base_url=url, timeout=120) as client,
        ):
            yield Fleet(client, app, list(engines))


@asynccontextmanager
async def _gateway(settings: GatewaySettings) -> AsyncIterator[tuple[App, str]]:
    options = serving_options("critical")
    if settings.workers == 1:
        app = create_app(settings)
        async with serving(app, **options) as url:
            yield app, url
        return
    with socket.create_server(("127.0.0.1", 0)) as listener, TemporaryDirectory() as folder:
        workers = Workers(settings.workers, listener, Path(folder), "critical")
        app, url = create_app(settings, workers), _url_of(listener)
        async with serving(app, str(Path(folder) / CONTROL_SOCKET), **options):
            yield app, url


@asynccontextmanager
async def _all_serving(engines: tuple[ScriptedEngine, ...]) -> AsyncIterator[list[str]]:
    if not engines:
        yield []
        return
    async with serving(engines[0]) as url, _all_serving(engines[1:]) as others:
        yield [url, *others]


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Wait until the condition, which another process decides, holds."""
    with anyio.fail_after(timeout_s):
        while True:
            if await condition():
                return
            await anyio.sleep(0.02)
