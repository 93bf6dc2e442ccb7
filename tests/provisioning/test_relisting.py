"""Another list of standby units while the gateway runs: real processes, over the admin API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from global_scheduler.provisioning.local_process import LocalProcess
from global_scheduler.provisioning.standby import ProcessSpec
from tests.emulator.process import MODEL
from tests.global_scheduler.fleet import Fleet, ScriptedEngine, eventually, fleet
from tests.provisioning.test_live import emulated, engine

pytestmark = pytest.mark.anyio
TOKEN = {"authorization": "Bearer secret"}
START_S = 30.0


@asynccontextmanager
async def gateway(folder: Path, *engines: ScriptedEngine, **given: Any) -> AsyncIterator[Fleet]:
    """A gateway without standby units, which takes a list of them from who has its token."""
    settings: dict[str, Any] = {
        "admin_token": "secret",
        "provisioning_cooldown_s": 0,
        "min_units": 2,  # so that a standby unit starts as soon as there is one
        "standby_dir": folder / "standby",
    }
    async with fleet(*engines, **(settings | given)) as running:
        running.client.headers.update(TOKEN)
        yield running


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The definition of a standby unit, of which nothing is left after the test."""
    defined = emulated(tmp_path)
    yield defined
    spec = ProcessSpec.model_validate(defined["provisioner"])
    asyncio.run(LocalProcess("s1", spec, tmp_path / "standby").stop())


async def relist(running: Fleet, **body: Any) -> httpx.Response:
    """Give the gateway another list."""
    headers = {"content-type": "application/json"}
    content = json.dumps(body)  # httpx's own could not spell half a character
    return await running.client.put("/admin/provisioning/units", content=content, headers=headers)


async def states(running: Fleet) -> dict[str, str]:
    """Of the standby units, by name."""
    shown = (await running.client.get("/admin/provisioning")).json()["units"]
    return {one["name"]: one["state"] for one in shown}


async def becomes(running: Fleet, wanted: dict[str, str]) -> None:
    """Until the standby units are so."""

    async def check() -> bool:
        return await states(running) == wanted

    await eventually(check, START_S)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_unit_is_listed_joins_is_listed_no_more_and_leaves(
    tmp_path: Path, unit: dict[str, Any], workers: int
) -> None:
    """It finishes what it runs before it is stopped, and is forgotten then."""
    only = engine(10.0)
    async with gateway(tmp_path, only, workers=workers) as running:
        answer = await relist(running, units=[unit])
        assert answer.status_code == 200, answer.text
        await becomes(running, {"s1": "serving"})
        only.healthy = False
        await eventually(lambda: _only_s1(running), 10.0)
        request: dict[str, Any] = {"model": MODEL, "max_tokens": 1_000, "ignore_eos": True}
        sent = asyncio.ensure_future(running.complete(**request))
        await eventually(lambda: _is_busy(running), 10.0)
        only.healthy = True
        answer = await relist(running, units=[])
        assert [one["listed"] for one in answer.json()["units"]] == [False]
        ended = await sent
        assert (ended.status_code, ended.headers["x-astrolabe-unit"]) == (200, "s1")
        assert ended.json()["usage"]["completion_tokens"] == 1_000
        await becomes(running, {})
        assert [u["name"] for u in (await running.client.get("/admin/units")).json()] == ["u0"]
    assert not (tmp_path / "standby/s1.json").exists()


async def _only_s1(running: Fleet) -> bool:
    return bool((await running.client.get("/health")).json()["healthy"] == 1)


async def _is_busy(running: Fleet) -> bool:
    shown = (await running.client.get("/admin/units")).json()
    return any(u["name"] == "s1" and u["num_outstanding"] for u in shown)


async def test_the_file_is_read_again_without_a_token(tmp_path: Path, unit: dict[str, Any]) -> None:
    """What stands in it counts; a gateway that anybody may call takes no commands from calls."""
    file = tmp_path / "standby.json"
    other = unit | {"name": "s2", "engine_url": "http://127.0.0.1:9"}
    file.write_text(json.dumps({"units": [unit]}))
    settings: dict[str, Any] = {"admin_token": None, "standby_units": file, "min_units": 1}
    async with gateway(tmp_path, engine(10.0), **settings) as running:
        assert await states(running) == {"s1": "off"}
        file.write_text(json.dumps({"units": [other, unit]}))
        assert (await relist(running)).status_code == 200
        assert list(await states(running)) == ["s2", "s1"]
        for body in ({"units": [unit]}, {"file": str(file)}):
            refused = await relist(running, **body)
            assert refused.status_code == 403
            assert "--admin-token" in refused.json()["error"]["message"]
        assert list(await states(running)) == ["s2", "s1"]


async def test_another_definition_counts_when_the_unit_is_next_off(
    tmp_path: Path, unit: dict[str, Any]
) -> None:
    """What runs is stopped as it was started; what is off is at once as it is listed."""
    changed = unit | {"model": "another"}
    async with gateway(tmp_path, engine(10.0)) as running:
        await relist(running, units=[unit])
        await becomes(running, {"s1": "serving"})
        assert (await relist(running, units=[changed])).json()["units"][0]["model"] is None
        assert await states(running) == {"s1": "serving"}
        rules = {"min_units": 1, "idle_s": 0.1}
        await running.client.put("/admin/provisioning", json=rules)
        await becomes(running, {"s1": "off"})
        await eventually(lambda: _has_model(running, "another"), 5.0)
        answer = await relist(running, units=[unit])
        assert answer.json()["units"][0]["model"] is None


async def _has_model(running: Fleet, model: str) -> bool:
    shown = (await running.client.get("/admin/provisioning")).json()["units"]
    return [one["model"] for one in shown] == [model]


async def test_lists_that_cannot_be_are_refused_and_what_was_stays(
    tmp_path: Path, unit: dict[str, Any]
) -> None:
    """With the key and the value that are wrong."""
    async with gateway(tmp_path, engine(10.0), min_units=1) as running:
        await relist(running, units=[unit])
        refusals: list[tuple[dict[str, Any], str]] = [
            ({"units": [unit | {"name": "u0"}]}, "units.0.name: 'u0' is a unit already"),
            ({"units": [unit, unit]}, "two units have the name 's1'"),
            ({"units": [unit | {"engine": "x"}]}, "engine"),
            ({"units": [unit | {"name": "été"}]}, "units.0.name"),
            ({"units": [unit | {"engine_url": "http://\ud800"}]}, "units.0.engine_url"),
            ({"units": [unit | {"model": "\ud800"}]}, "units.0.model"),
            ({"units": [], "file": "x.json"}, "give one of them"),
            ({"file": str(tmp_path / "none.json")}, "none.json: No such file or directory"),
            ({}, "started without --standby-units"),
        ]
        for body, words in refusals:
            refused = await relist(running, **body)
            assert refused.status_code == 400, body
            assert words in refused.json()["error"]["message"]
        assert await states(running) == {"s1": "off"}
        del running.client.headers["authorization"]
        assert (await relist(running, units=[])).status_code == 401
