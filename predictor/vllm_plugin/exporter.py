"""Publishes an engine's snapshots: to processes of its host, and to remote readers if asked to.

Knows nothing of vLLM, so anything that behaves like an engine can publish the same way.
"""

from __future__ import annotations

import msgspec

from predictor.vllm_plugin.server import SnapshotServer
from predictor.vllm_plugin.shared_memory import SnapshotWriter
from wire.snapshot import EngineSnapshot


class SnapshotExporter:
    """Holds the last snapshot of one engine. One thread publishes."""

    def __init__(self, engine_id: str, listen: str | None = None) -> None:
        """``listen`` is None, ``host:port`` or ``unix:/path``.

        Raises:
            ConfigurationError: the id or the address cannot be used.
            OSError: the file cannot be made or the address cannot be listened at.
        """
        self._encoder = msgspec.msgpack.Encoder()
        self._latest = b""
        self._writer = SnapshotWriter(engine_id)
        try:
            self._server = SnapshotServer(listen, lambda: self._latest) if listen else None
        except Exception:
            self._writer.close()
            raise

    @property
    def num_bytes(self) -> int:
        """The size of the last snapshot."""
        return len(self._latest)

    @property
    def port(self) -> int | None:
        """The TCP port that remote readers use, if any."""
        return self._server.port if self._server else None

    def publish(self, snapshot: EngineSnapshot) -> None:
        """Make this the state that readers see. Raises OSError when it cannot be written."""
        self._latest = self._encoder.encode(snapshot)
        self._writer.write(self._latest)

    def retract(self) -> None:
        """Take back the last snapshot: readers learn that there is none."""
        self._latest = b""
        self._writer.write(b"")

    def close(self) -> None:
        """Stop serving and remove the file."""
        if self._server:
            self._server.close()
        self._writer.close()
