"""``--queue-order adaptive`` with default settings: real engines' load decides who leaves first."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from global_scheduler.app import create_app
from global_scheduler.settings import GatewaySettings
from tests.emulator.process import run_emulator
from tests.global_scheduler.fleet import eventually, serving
from tests.predictor.sidecar import running_sidecar

pytestmark = pytest.mark.anyio

SEVEN_BILLION: dict[str, Any] = {
    "num_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_kv_heads": 32,
    "head_dim": 128,
    "max_model_len": 16384,
    "num_gpu_blocks": 10_000,
}
"""A step takes about 15 ms on an A30, however fast the machine is."""
ONE, MANY = "test/one-at-a-time", "test/eight-at-a-time"
WITHOUT_END = 15_000
"""Output tokens that take minutes."""
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two units: one whose engine runs one request at a time, and one of eight."""
    with contextlib.ExitStack() as started:
        found = []
        for name, model, most in (("a", ONE, 1), ("b", MANY, 8)):
            folder = tmp_path_factory.mktemp(name)
            engine = started.enter_context(
                run_emulator(folder, model_name=model, max_batch_size=most, **SEVEN_BILLION)
            )
            sidecar = started.enter_context(
                running_sidecar(
                    engine.url,
                    engine_id=engine.engine_id,
                    model_path=folder / "tiny_config.json",
                )
            )
            found.append(f"{name}={engine.url},{sidecar.http.base_url}")
        yield found


@contextlib.asynccontextmanager
async def _gateway(units: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    settings = GatewaySettings(
        unit=units,
        queue_order="adaptive",
        length_estimator="none",  # lengths are what max_tokens says
        prediction_deadline_ms=10_000.0,  # a busy machine must not fail a test
    )
    assert settings.worker_concurrency_limit == "none", os.environ.get("WORKER_CONCURRENCY_LIMIT")
    async with (
        serving(create_app(settings)) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


class _Requests:
    """Requests under way on a gateway."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.sent: dict[str, asyncio.Task[httpx.Response]] = {}

    def send(self, name: str, model: str, max_tokens: int, **headers: str) -> None:
        """Begin one."""
        body = {"model": model, "prompt": name, "max_tokens": max_tokens, "ignore_eos": True}
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        asked = self._client.post(
            "/v1/completions", json=body, headers={"x-request-id": name} | named
        )
        self.sent[name] = asyncio.ensure_future(asked)

    async def leave(self, name: str) -> None:
        """Its client hangs up."""
        self.sent[name].cancel()
        await asyncio.gather(self.sent.pop(name), return_exceptions=True)

    async def answered(self, name: str) -> None:
        """It ends well."""
        assert (await self.sent.pop(name)).status_code == 200

    async def has_started(self, unit: str, count: int) -> None:
        """Until a unit's engine has so many."""

        async def check() -> bool:
            shown = (await self._client.get("/admin/units")).json()
            return any(u["name"] == unit and u["num_outstanding"] == count for u in shown)

        await eventually(check, PATIENCE_S)

    async def wait_in_the_gateway(self, count: int) -> None:
        """Until so many do."""

        async def check() -> bool:
            pages = (await self._client.get("/metrics")).text.splitlines()
            return f'astrolabe_queue_requests{{class="short"}} {count}.0' in pages

        await eventually(check, PATIENCE_S)

    async def left_in_order(self, names: set[str]) -> str:
        """The names, in the order in which they were given a unit."""
        decisions = (await self._client.get("/admin/decisions")).json()
        return " ".join(one["request_id"] for one in decisions if one["request_id"] in names)


@pytest.mark.parametrize(
    ("num_running", "least", "most", "order"),
    [
        pytest.param(0, 0.0, 0.2, "cheap urgent important", id="low load: the cheapest first"),
        pytest.param(4, 0.4, 0.6, "important cheap urgent", id="between: the most important first"),
        pytest.param(8, 0.85, 1.0, "urgent cheap important", id="high load: who has a goal first"),
    ],
)
async def test_who_leaves_first_depends_on_how_full_the_engines_are(
    units: list[str], num_running: int, least: float, most: float, order: str
) -> None:
    """No limit is set: it is the engines' own seats that are taken, and a what-if that holds the
    three requests back until the only seat of their engine is free."""
    async with _gateway(units) as client:
        requests = _Requests(client)
        for index in range(num_running):
            requests.send(f"load-{index}", MANY, WITHOUT_END)
        await requests.has_started("b", num_running)
        requests.send("first", ONE, WITHOUT_END)
        await requests.has_started("a", 1)
        requests.send("cheap", ONE, 5)
        await requests.wait_in_the_gateway(1)
        requests.send("important", ONE, 60, x_astrolabe_priority="5")
        await requests.wait_in_the_gateway(2)
        requests.send("urgent", ONE, 40, x_slo_ttft_ms="600000")
        await requests.wait_in_the_gateway(3)
        load = (await client.get("/admin/pools")).json()["load"]
        assert least <= load <= most
        await requests.leave("first")
        for name in order.split():
            await requests.answered(name)
        assert await requests.left_in_order(set(order.split())) == order
        for index in range(num_running):
            await requests.leave(f"load-{index}")
