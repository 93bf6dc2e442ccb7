"""Reads the snapshots that the plug-in, or the emulator, publishes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import aiohttp

from predictor.errors import (
    ConfigurationError,
    SnapshotAbsent,
    SnapshotCorrupt,
    SnapshotTorn,
    StateUnreachable,
)
from predictor.state.validate import read_msgpack
from predictor.vllm_plugin.shared_memory import (
    MAX_ATTEMPTS,
    MAX_SNAPSHOT_BYTES,
    RETRY_PAUSE_S,
    SnapshotReader,
    published_engine_ids,
)
from wire.prediction import SentRequest
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import EngineSnapshot

DEFAULT_TIMEOUT_S = 0.5


class _Transport(Protocol):
    async def fetch(self) -> bytes: ...

    async def close(self) -> None: ...


class PluginStateSource:
    """Reads one engine's snapshots at ``shm:ENGINE_ID``, ``http://host:port/snapshot`` or
    ``unix:/path``.
    """

    def __init__(self, address: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connects at the first read. Raises ConfigurationError for another form of address."""
        self._transport = _transport(address, timeout_s)
        self._address = address
        self._payload = b""
        self._snapshot: EngineSnapshot | None = None

    @property
    def name(self) -> StateSourceName:
        """Always ``plugin``."""
        return "plugin"

    async def read(self, sent: Sequence[SentRequest] | None = None) -> EngineSnapshot:
        """The engine's last snapshot: the same object for as long as it is the same.

        While the engine is held up in the midst of writing one, that is the one before.

        Raises:
            StateUnavailable: see ``predictor.errors``.
        """
        try:
            payload = await self._transport.fetch()
        except SnapshotTorn:
            if self._snapshot is None:
                raise
            return self._snapshot
        if self._snapshot is None or payload != self._payload:
            self._snapshot = None
            try:
                self._snapshot = read_msgpack(payload)
            except SnapshotCorrupt as error:
                raise SnapshotCorrupt(f"{self._address}: {error}") from error
            self._payload = payload
        return self._snapshot

    async def close(self) -> None:
        """Close the file or the connection."""
        await self._transport.close()


def engines_here(address: str) -> str:
    """To be said when the engine at an address was not found: the names that there are.

    Empty for addresses that are no names (``shm:``).
    """
    if not address.startswith("shm:"):
        return ""
    names = ", ".join(f"shm:{engine_id}" for engine_id in published_engine_ids())
    known = f"engines that publish on this host: {names}" if names else "none publishes here"
    return f" ({known})"


def _transport(address: str, timeout_s: float) -> _Transport:
    if address.startswith("shm:"):
        return _SharedMemory(address.removeprefix("shm:"))
    if address.startswith(("http://", "https://")):
        return _Http(address, None, timeout_s)
    if address.startswith("unix:/"):
        return _Http("http://engine/snapshot", address.removeprefix("unix:"), timeout_s)
    raise ConfigurationError(
        f"plug-in address {address!r} is none of shm:ENGINE_ID, http://host:port/snapshot, "
        "unix:/path"
    )


class _SharedMemory:
    def __init__(self, engine_id: str) -> None:
        self._reader = SnapshotReader(engine_id)

    async def fetch(self) -> bytes:
        for _ in range(MAX_ATTEMPTS):
            # Some ten microseconds: less than handing it to a thread would cost.
            payload = self._reader.try_read()
            if payload is not None:
                return payload
            await asyncio.sleep(RETRY_PAUSE_S)
        self._reader.check_alive()
        raise SnapshotTorn(f"{self._reader.path}: the engine wrote at every attempt to read")

    async def close(self) -> None:
        self._reader.close()


class _Http:
    def __init__(self, url: str, unix_path: str | None, timeout_s: float) -> None:
        self._url = url
        self._unix_path = unix_path
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self) -> bytes:
        where = self._unix_path or self._url
        if self._session is None:  # aiohttp wants it made inside the event loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._unix_path) if self._unix_path else None,
                timeout=self._timeout,
            )
        try:
            async with self._session.get(self._url) as response:
                if response.status == 503:
                    raise SnapshotAbsent(f"{where}: the engine has published no snapshot")
                if response.status != 200:
                    raise StateUnreachable(f"{where} answered HTTP {response.status}")
                return await _read_bounded(response, where)
        except asyncio.TimeoutError as error:
            raise StateUnreachable(f"{where}: no answer within {self._timeout.total} s") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise StateUnreachable(f"{where}: {error}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _read_bounded(response: aiohttp.ClientResponse, where: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        body += chunk
        if len(body) > MAX_SNAPSHOT_BYTES:
            raise SnapshotCorrupt(f"{where} sent more than {MAX_SNAPSHOT_BYTES} bytes")
    return bytes(body)
