"""How much may wait, for how long and how often overtaken: switched while the gateway runs."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from tests.global_scheduler.fleet import eventually
from tests.global_scheduler.test_late_binding import full_unit, is_waiting, send

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("bound", "order"),
    [(None, ["first", "b", "c", "d", "long"]), (1, ["first", "b", "long", "c", "d"])],
)
async def test_how_often_a_request_is_overtaken_is_switched_while_it_waits(
    workers: int, bound: int | None, order: list[str]
) -> None:
    """Those in the queue already are bound by the new number; without one the order alone rules."""
    async with full_unit(queue_order="sjf", workers=workers) as (running, gate, _):
        sent = []
        for name, max_tokens in (("long", 500), ("b", 5), ("c", 6), ("d", 7)):
            sent.append(asyncio.ensure_future(send(running, name, max_tokens=max_tokens)))
            await eventually(partial(is_waiting, running, len(sent)))
        if bound is not None:
            shown = await running.client.put("/admin/pools", json={"max_overtakes": bound})
            assert shown.json()["max_overtakes"] == bound
        gate.open.set()
        assert {(await one).status_code for one in sent} == {200}
        assert gate.started == order


async def test_bounds_of_the_queues_are_switched() -> None:
    """Fewer may wait from now on, and for less long; who waits already is not sent away for the
    first, but is for the second."""
    async with full_unit() as (running, _gate, _first):
        sent = asyncio.ensure_future(send(running, "patient"))
        await eventually(lambda: is_waiting(running, 1))
        await running.client.put("/admin/pools", json={"max_queued_requests": 1})
        refused = await send(running, "too-many")
        assert (refused.status_code, refused.headers["x-astrolabe-rejected"]) == (429, "queue_full")
        shown = await running.client.put("/admin/pools", json={"max_queue_age_s": 0.05})
        assert (shown.json()["max_queued_requests"], shown.json()["max_queue_age_s"]) == (1, 0.05)
        assert (await sent).headers["x-astrolabe-rejected"] == "queue_timeout"


@pytest.mark.parametrize("name", ["max_overtakes", "max_queued_requests", "max_queue_age_s"])
async def test_bounds_that_cannot_be_are_refused_by_name(name: str) -> None:
    """A bound is at least one, and what was stays."""
    async with full_unit() as (running, gate, _):
        before = (await running.client.get("/admin/pools")).json()
        refused = await running.client.put("/admin/pools", json={name: 0})
        assert refused.status_code == 400
        assert name in refused.text
        assert (await running.client.get("/admin/pools")).json()[name] == before[name]
        gate.open.set()
