"""Publishes an engine's snapshots: to processes of its host, and to remote readers if asked to.

Knows nothing of vLLM, so anything that behaves like an engine can publish the same way.
"""

from __future__ import annotations

from predictor.vllm_plugin.server import SnapshotServer
from predictor.vllm_plugin.shared_memory import SnapshotWriter


class SnapshotPublisher:
    """Holds the last snapshot of one engine. One thread publishes."""

    def __init__(self, engine_id: str, listen: str | None = None) -> None:
        """``listen`` is None, ``host:port`` or ``unix:/path``.

        Raises:
            ConfigurationError: the id or the address cannot be used.
            OSError: the file cannot be made or the address cannot be listened at.
        """
        self._latest = b""
        self._writer = SnapshotWriter(engine_id)
        try:
            self._server = SnapshotServer(listen, lambda: self._latest) if listen else None
        except Exception:
            self._writer.close()
            raise

    @property
    def port(self) -> int | None:
        """The TCP port that remote readers use, if any."""
        return self._server.port if self._server else None

    def publish(self, snapshot: bytes) -> None:
        """Make this msgpack the state that readers see; empty bytes take back the last one.

        Raises:
            ValueError: it is too large.
            OSError: the file system is full or gone.
        """
        self._latest = snapshot
        self._writer.write(snapshot)

    def close(self) -> None:
        """Stop serving and remove the file."""
        if self._server:
            self._server.close()
        self._writer.close()
