"""The gateway's pages: its admin API and its metrics, with a deadline for each call."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from global_scheduler.admission import Headroom, Miss
from global_scheduler.policies import POLICIES
from global_scheduler.pools.regimes import PoolsName
from global_scheduler.pools.stealing import Stealing
from global_scheduler.queueing import ORDERS

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Admin:
    """Of the gateway at this address. Methods raise OSError when it does not answer well."""

    url: str

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
        request = urllib.request.Request(
            self.url + path, body, {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return bytes(response.read())


def _sum(page: str, name: str) -> float:
    samples = [line for line in page.splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in samples)


def switch(admin: Admin, rng: random.Random) -> None:
    """Change policy, goals' treatment, pools, stealing, limits and the order of the queues."""
    admin.put(
        "/admin/policy",
        {
            "policy": rng.choice(list(POLICIES)),
            "num_query_predictors": rng.choice((0, 0, 2)),
            "slo_miss": rng.choice(get_args(Miss)),
            "slo_headroom": rng.choice(get_args(Headroom)),
        },
    )
    admin.put(
        "/admin/pools",
        {
            "pools": rng.choice(get_args(PoolsName)),
            "stealing": rng.choice(get_args(Stealing)),
            "num_long_units": rng.choice((1, 2)),
            "learn_threshold": rng.random() < 0.5,
            "queue_order": rng.choice(list(ORDERS)),
            "worker_concurrency_limit": rng.choice((2, 8, 8, 16, "auto")),
        },
    )
