"""The gateway's pages: its admin API and its metrics, with a deadline for each call."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Admin:
    """Of the gateway at this address. Methods raise OSError when it does not answer well."""

    url: str
    token: str | None = None
    """Of the admin API, where it asks for one."""

    def get(self, path: str) -> Any:
        """JSON."""
        return json.loads(self._call("GET", path))

    def put(self, path: str, body: Mapping[str, Any]) -> None:
        """Change something."""
        self._call("PUT", path, json.dumps(body).encode())

    def post(self, path: str) -> None:
        """Do something."""
        self._call("POST", path)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        return _sum(self._call("GET", "/metrics").decode(), name)

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"content-type": "application/json"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return bytes(response.read())


def _sum(page: str, name: str) -> float:
    samples = [line for line in page.splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in samples)
