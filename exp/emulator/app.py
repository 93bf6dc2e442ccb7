"""The emulator's HTTP side: the part of vLLM's API that clients, routers and scrapers use."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from exp.emulator.bodies import ChatBody, CompletionBody, GenerationBody, parse_body
from exp.emulator.errors import ApiError, error_body
from exp.emulator.generation import Generation
from exp.emulator.replies import ChatReply, CompletionReply, Reply
from exp.emulator.server import EmulatedServer
from exp.emulator.streaming import EventStream, watching


def create_app(server: EmulatedServer) -> FastAPI:
    """The application; its lifespan runs the engine."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with contextlib.closing(server):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.engine.run)
                yield
                tasks.cancel_scope.cancel()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    _add_information(app, server)
    _add_generation(app, server)
    return app


def _add_information(app: FastAPI, server: EmulatedServer) -> None:
    started_at = int(time.time())

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.scrape(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        card = {
            "id": server.model_name,
            "object": "model",
            "created": started_at,
            "owned_by": "vllm",
            "root": server.model_name,
            "parent": None,
            "max_model_len": server.options.model.max_model_len,
        }
        return JSONResponse({"object": "list", "data": [card]})


def _add_generation(app: FastAPI, server: EmulatedServer) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = parse_body(await request.body(), CompletionBody)
        server.check(body)
        reply_id = f"cmpl-{_base_id(request, body)}"
        tokens = body.encode_prompt(server.encoder)
        generation = server.start(f"{reply_id}-0", tokens, body.token_limit(), body)
        reply = CompletionReply(reply_id, server.model_name, int(time.time()), generation)
        return await _respond(server, request, body, generation, reply)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = parse_body(await request.body(), ChatBody)
        server.check(body)
        reply_id = f"chatcmpl-{_base_id(request, body)}"
        tokens = body.encode_prompt(server.encoder)
        generation = server.start(reply_id, tokens, body.token_limit(), body)
        reply = ChatReply(reply_id, server.model_name, int(time.time()), generation)
        return await _respond(server, request, body, generation, reply)


async def _respond(
    server: EmulatedServer,
    request: Request,
    body: GenerationBody,
    generation: Generation,
    reply: Reply,
) -> Response:
    def abort() -> None:
        server.abort(generation)

    if body.stream:
        return EventStream(generation, reply, body.include_usage(), abort)
    async with watching(request.receive, abort):
        while not generation.is_finished:
            await generation.wait(generation.num_tokens)
    return Response(reply.whole(), media_type="application/json")


def _base_id(request: Request, body: GenerationBody) -> str:
    return request.headers.get("x-request-id") or body.request_id or secrets.token_hex(16)


async def _answer_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.body(), error.status, media_type="application/json")


async def _answer_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    type = "NotFoundError" if error.status_code == 404 else "BadRequestError"
    body = error_body(str(error.detail), type, error.status_code)
    return Response(body, error.status_code, media_type="application/json")
