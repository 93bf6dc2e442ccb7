"""One worker: ``python -m global_scheduler.workers.worker``, as ``processes.py`` starts it.

It holds clients' connections, parses and checks their requests and relays engines' bytes. All that
is no generation goes on to the scheduler's own HTTP server, unread.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
from functools import partial
from pathlib import Path

import msgspec
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from global_scheduler.admin_guard import AdminGuard
from global_scheduler.connection_pool import ConnectionPool, Origin, origin_of_socket
from global_scheduler.engine_http import BrokenOff
from global_scheduler.errors import Unavailable, UpstreamFailed
from global_scheduler.exchange import Exchange
from global_scheduler.gateway import Gateway
from global_scheduler.serving import (
    CONTROL_SOCKET,
    TICKET_SOCKET,
    serving_options,
    set_up_logging,
    tune_collector,
)
from global_scheduler.upstream import (
    CONNECT_TIMEOUT_S,
    HOP_BY_HOP,
    KEEPALIVE_S,
    Upstream,
    without,
)
from global_scheduler.workers.channel import Channel
from global_scheduler.workers.messages import Configured, FromScheduler, Refused
from global_scheduler.workers.remote_generations import RemoteGenerations

logger = logging.getLogger(__name__)

LONGEST_CONTROL_S = 600.0
"""Of silence on the way to the scheduler, which may itself be waiting for an engine."""


class Forwarding:
    """Requests that the scheduler's own HTTP server answers."""

    def __init__(self, pool: ConnectionPool, origin: Origin, *, max_body_bytes: int) -> None:
        self._pool = pool
        self._origin = origin
        self._max_body_bytes = max_body_bytes

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request; see ``pass_through.PassThrough``."""
        body = await exchange.body(self._max_body_bytes)
        headers = without(NOT_SENT_ON, exchange.scope["headers"])
        method, target = exchange.scope["method"], exchange.target
        async with exchange.until_client_leaves():
            asked = self._pool.request(
                self._origin, method, target, headers, body, silence_s=LONGEST_CONTROL_S
            )
            try:
                response = await asked
            except (OSError, BrokenOff) as error:
                raise Unavailable(f"the scheduler does not answer: {error}") from error
            async with response:
                await exchange.start(response.status, without(HOP_BY_HOP, response.raw_headers))
                try:
                    while chunk := await response.read_some():
                        await exchange.send(chunk)
                except BrokenOff as error:
                    raise UpstreamFailed(f"the scheduler broke off: {error}") from error
                await exchange.finish()


NOT_SENT_ON = HOP_BY_HOP | {b"host", b"content-length", b"expect"}


class Worker:
    """The process."""

    def __init__(self, folder: Path, listener: socket.socket, log_level: str) -> None:
        self._folder = folder
        self._listener = listener
        self._log_level = log_level

    async def run(self) -> None:
        """Serve until told to stop, or until the scheduler has gone."""
        configured: asyncio.Future[Configured] = asyncio.get_running_loop().create_future()
        generations: RemoteGenerations | None = None

        def take(message: FromScheduler) -> None:
            if isinstance(message, Configured):
                configured.set_result(message)
            else:
                assert generations is not None
                generations.ordered(message)

        channel: Channel[FromScheduler] = Channel(
            msgspec.msgpack.Decoder(FromScheduler), take, _scheduler_gone
        )
        path = str(self._folder / TICKET_SOCKET)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, path)
        settings = await configured
        pool = ConnectionPool(connect_timeout_s=CONNECT_TIMEOUT_S, idle_s=KEEPALIVE_S)
        upstream = Upstream(
            pool,
            read_timeout_s=settings.engine_timeout_s,
            engine_api_key=settings.engine_api_key,
            forward_authorization=not settings.api_keys,
        )
        generations = RemoteGenerations(upstream, channel.send)
        app = _app(settings, generations, pool, self._folder, channel)
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, **serving_options(self._log_level)
        )
        tune_collector()
        sweeping = asyncio.ensure_future(pool.run())
        try:
            await uvicorn.Server(config).serve(sockets=[self._listener])
        finally:
            sweeping.cancel()


def _scheduler_gone() -> None:
    # Nothing can be decided any more, nor an answer under way be accounted for.
    logger.error("the scheduler has gone")
    os._exit(1)


def _app(
    settings: Configured,
    generations: RemoteGenerations,
    pool: ConnectionPool,
    folder: Path,
    channel: Channel[FromScheduler],
) -> ASGIApp:
    origin = origin_of_socket(str(folder / CONTROL_SOCKET))
    others = Forwarding(pool, origin, max_body_bytes=settings.max_body_bytes)

    def count_refused(status: int) -> None:
        channel.send(Refused(status))

    make = partial(
        Gateway, generations, others, count_refused, max_body_bytes=settings.max_body_bytes
    )
    front_door = make(api_keys=settings.api_keys)
    control = AdminGuard(make(api_keys=()), settings.admin_token, is_loopback=settings.is_loopback)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_public = scope["path"].startswith("/v1/")
        await (front_door if is_public else control)(scope, receive, send)

    return app


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of the scheduler's sockets")
    parser.add_argument("--listen-fd", type=int, required=True, help="the clients' socket")
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    set_up_logging(arguments.log_level)
    listener = socket.socket(fileno=arguments.listen_fd)
    worker = Worker(arguments.folder, listener, arguments.log_level)
    uvloop.run(worker.run())


if __name__ == "__main__":
    main()
