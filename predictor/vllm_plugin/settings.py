"""What the plug-in takes from the environment of the vLLM process.

ASTROLABE_ENGINE_ID         names the snapshots; by default ``vllm-PORT`` after the API server's
                            ``--port``, or ``vllm-pid-PID`` where the command line names none
ASTROLABE_SNAPSHOT_LISTEN   ``host:port`` or ``unix:/path`` for remote readers; off by default

With data parallelism every engine but the first gets its index: appended to the id and to a UNIX
socket's path as ``-INDEX``, added to a TCP port.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """The plug-in's settings for one engine."""

    engine_id: str
    listen: str | None


def read_settings(
    environ: Mapping[str, str], argv: Sequence[str], pid: int, data_parallel_index: int
) -> PluginSettings:
    """Settings from the environment, with defaults from the command line and the process id."""
    engine_id = environ.get("ASTROLABE_ENGINE_ID") or _default_engine_id(argv, pid)
    listen = environ.get("ASTROLABE_SNAPSHOT_LISTEN") or None
    if data_parallel_index > 0:
        engine_id = f"{engine_id}-{data_parallel_index}"
        listen = listen and _shifted(listen, data_parallel_index)
    return PluginSettings(engine_id, listen)


def _default_engine_id(argv: Sequence[str], pid: int) -> str:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        port = following if argument == "--port" else argument.removeprefix("--port=")
        if argument.startswith("--port") and port.isdecimal():
            return f"vllm-{port}"
    return f"vllm-pid-{pid}"


def _shifted(listen: str, index: int) -> str:
    if listen.startswith("unix:"):
        return f"{listen}-{index}"
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + index}" if port.isdecimal() else listen
