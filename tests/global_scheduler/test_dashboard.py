"""The page at ``/admin``."""

from __future__ import annotations

import asyncio
import re
import shutil

import pytest

from tests.global_scheduler.fleet import Fleet, ScriptedEngine, fleet

pytestmark = pytest.mark.anyio
CHROMIUM = shutil.which("chromium")


async def test_the_page_holds_no_data_and_may_load_nothing_from_elsewhere() -> None:
    """It is open where the admin API needs a token: all it shows comes by calls that carry one."""
    async with fleet(ScriptedEngine(), admin_token="secret") as running:
        page = await running.client.get("/admin")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "u0" not in page.text
        paths = set(re.findall(r'"(/admin/[a-z]+)', page.text))
        names = ("pools", "units", "policy", "settings", "decisions")
        assert paths == {f"/admin/{name}" for name in names}
        for path in paths:
            assert (await running.client.get(path)).status_code == 401
            headers = {"authorization": "Bearer secret"}
            assert (await running.client.get(path, headers=headers)).status_code == 200


@pytest.mark.browser
async def test_a_browser_shows_units_rules_and_decisions() -> None:
    """Names and figures of the running gateway, as text and never as markup."""
    async with fleet(ScriptedEngine(), ScriptedEngine(), worker_concurrency_limit=8) as running:
        assert (await running.complete()).status_code == 200
        dom = await _dom(running)
        assert "2 of 2 units healthy" in dom
        assert all(f"<span>{unit}</span>" in dom for unit in ("u0", "u1"))
        assert "0 of 8" in dom
        assert re.search(r"<td>short</td><td>u[01]</td>", dom)
        assert "min_total_delay of 2 units with room" in dom
        assert '<span id="trouble" role="alert"></span>' in dom
        assert '<details id="idle" hidden="">' in dom


@pytest.mark.browser
async def test_a_browser_shows_settings_without_effect() -> None:
    """Each with the reason, and with what would give it one."""
    settings = {"queue_order": "edf", "policy": "round_robin", "learn_threshold": True}
    async with fleet(ScriptedEngine(), ScriptedEngine(), **settings) as running:
        dom = await _dom(running)
        assert '<details id="idle"><summary>5 settings without effect</summary>' in dom
        assert "<b>queue_order edf</b>: nothing waits in the gateway" in dom
        assert "to give it one: --worker-concurrency-limit" in dom
        assert "<b>learn_threshold true</b>" in dom


async def _dom(running: Fleet) -> str:
    """The page as a browser has it after a while."""
    assert CHROMIUM, "scripts/test installs Chromium"
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *("--virtual-time-budget=3000", f"{running.client.base_url}/admin"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return (await asyncio.wait_for(process.communicate(), 240))[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
