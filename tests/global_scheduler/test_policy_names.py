"""The names by which the sources ask for a policy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from exp.twin.run import CaseSettings
from global_scheduler.__main__ import read_settings
from global_scheduler.queueing import ORDERS
from global_scheduler.settings import GatewaySettings
from tests.global_scheduler.fleet import ScriptedEngine, fleet

PROJECT = Path(__file__).parents[2]
STATIC = ["--env-file", str(PROJECT / "config/router_static.env")]


@pytest.fixture(autouse=True)
def no_names_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have some."""
    for name in ("POLICY", "SCHEDULER"):
        monkeypatch.delenv(f"ASTROLABE_GATEWAY_{name}", raising=False)


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        (["--scheduler", "min_new_request_latency"], "min_new_request_latency"),
        (["--scheduler", "min_total_unprocessed_tokens"], "min_total_unprocessed_tokens"),
        (["--scheduler", "min_lunmnix_load"], "min_llumnix_load"),
        (["--scheduler", "round_robin"], "round_robin"),
        (["--scheduler", "random"], "random"),
        (["--scheduler=min_llumnix_load"], "min_llumnix_load"),
        (["--policy", "min_lunmnix_load"], "min_llumnix_load"),
        (["--policy", "min_llumnix_load", "--scheduler", "min_lunmnix_load"], "min_llumnix_load"),
        (["--policy", "load_balanced"], "load_balanced"),
        (["--policy", "power_of_two"], "power_of_two"),
        (["--policy", "affinity"], "affinity"),
        (["--policy", "locality"], "locality"),
    ],
)
def test_what_the_sources_call_a_policy_is_taken(arguments: list[str], policy: str) -> None:
    """By either flag, in either spelling, shown as it is called here."""
    settings = read_settings([*arguments, "--seed", "3"])
    assert (settings.policy, settings.seed) == (policy, 3)
    assert "scheduler" not in settings.model_dump()


@pytest.mark.parametrize("order", ["fifo", "priority", "slo_aware", "cost_optimized", "adaptive"])
def test_what_the_sources_call_a_scheduling_policy_is_a_queue_order(order: str) -> None:
    """All five of the control plane's."""
    assert ORDERS[read_settings(["--queue-order", order]).queue_order].name == order


def test_the_nearer_source_comes_first_whichever_name_it_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flag, environment, file: the file says ``policy``."""
    assert read_settings(STATIC).policy == "least_outstanding"
    monkeypatch.setenv("ASTROLABE_GATEWAY_SCHEDULER", "min_lunmnix_load")
    assert read_settings(STATIC).policy == "min_llumnix_load"
    assert read_settings([*STATIC, "--scheduler", "random"]).policy == "random"
    assert read_settings([*STATIC, "--policy", "affinity"]).policy == "affinity"


def test_a_file_may_say_scheduler(tmp_path: Path) -> None:
    """As the environment may."""
    path = tmp_path / "gateway.env"
    path.write_text("ASTROLABE_GATEWAY_SCHEDULER=min_lunmnix_load\n")
    assert read_settings(["--env-file", str(path)]).policy == "min_llumnix_load"


def test_the_twins_gateway_takes_the_same_names() -> None:
    """A case of a study is written by people, too."""
    settings = CaseSettings.model_validate({"scheduler": "min_lunmnix_load"})
    assert settings.policy == "min_llumnix_load"


def test_two_names_with_two_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither could be meant more than the other."""
    monkeypatch.setenv("ASTROLABE_GATEWAY_SCHEDULER", "random")
    monkeypatch.setenv("ASTROLABE_GATEWAY_POLICY", "token_load")
    with pytest.raises(ValidationError, match=r"'token_load'.*'random'"):
        read_settings([])
    with pytest.raises(ValidationError, match="scheduler"):
        GatewaySettings(policy="affinity", scheduler="locality")


@pytest.mark.parametrize(
    ("arguments", "flag", "names"),
    [
        (
            ["--scheduler", "random", "--policy", "min_lunmnix_load"],
            "--scheduler",
            ("policy", "'min_llumnix_load'", "'random'"),
        ),
        (["--scheduler", "best"], "--scheduler", ("'best'", "'min_total_delay'")),
        (["--policy", "best"], "--policy", ("'best'", "'min_total_delay'")),
    ],
)
def test_the_command_names_flags_and_values(
    arguments: list[str], flag: str, names: tuple[str, ...]
) -> None:
    """It ends with status 2 and one line."""
    command = [sys.executable, "-m", "global_scheduler", *arguments]
    ended = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {flag}: ")
    assert ended.stderr.count("\n") == 1
    assert all(name in ended.stderr for name in names)


def test_help_tells_of_the_other_names() -> None:
    """Somebody who looks for one finds it."""
    command = [sys.executable, "-m", "global_scheduler", "--help"]
    shown = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=240, check=True
    ).stdout
    assert "another name for --policy" in shown
    assert "min_lunmnix_load" in shown


@pytest.mark.anyio
async def test_the_admin_api_takes_the_same_names() -> None:
    """And shows the policy under its own."""
    async with fleet(ScriptedEngine()) as running:

        async def put(**body: str) -> tuple[int, str]:
            answer = await running.client.put("/admin/policy", json=body)
            return answer.status_code, answer.text

        assert (await put(policy="min_lunmnix_load"))[0] == 200
        assert (await running.complete()).headers["x-astrolabe-policy"] == "min_llumnix_load"
        assert (await put(scheduler="round_robin"))[0] == 200
        assert (await running.client.get("/admin/policy")).json()["policy"] == "round_robin"
        status, text = await put(scheduler="random", policy="affinity")
        assert status == 400
        assert "scheduler" in text
        assert "affinity" in text
        assert (await put(scheduler="best"))[0] == 400
        assert (await running.client.get("/admin/policy")).json()["policy"] == "round_robin"
