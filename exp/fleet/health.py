"""Asking parts whether they are well."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from exp.fleet.errors import StartError
from exp.fleet.plan import Part

PROBE_TIMEOUT_S = 2.0


def is_healthy(part: Part) -> bool:
    """Whether the part answers its health path with 200 in time."""
    try:
        fetch(part.url + part.health_path)
    except OSError:
        return False
    return True


def fetch(url: str) -> bytes:
    """The body of a GET.

    Raises:
        OSError: no answer within two seconds, or a status that is not 2xx.
    """
    # Units are asked directly: a proxy from the environment would not reach them.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PROBE_TIMEOUT_S) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error!r}") from error


def healthy_titles(parts: Sequence[Part]) -> set[str]:
    """The titles of those that are well, asked all at once."""
    with ThreadPoolExecutor(max(1, len(parts))) as pool:
        answers = pool.map(is_healthy, parts)
        return {part.title for part, is_well in zip(parts, answers, strict=True) if is_well}


def wait_for_units(gateway_url: str) -> None:
    """The gateway looks at its units once a second; wait until it has seen them all.

    Raises:
        StartError: it still misses some after ten seconds.
    """
    for _ in range(50):
        seen = json.loads(fetch(f"{gateway_url}/health"))
        if seen["healthy"] == seen["units"]:
            return
        time.sleep(0.2)
    raise StartError(f"The gateway sees only {seen['healthy']} of {seen['units']} units.")


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this port of all addresses."""
    with socket.socket() as probe:
        # A port that has just been closed counts as free, as it does for the servers.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
