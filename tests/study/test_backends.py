"""Cases on real gateways: what the emulated fleet is made of, what a cluster is switched to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
import pytest

from exp.gateway_admin import Admin
from exp.study.backends import cluster, emulated
from exp.study.backends.sending import requests_of
from exp.study.case import (
    Case,
    Failure,
    Fleet,
    Goals,
    LengthBelief,
    TwinOptions,
    UnitGroup,
    WorkloadSpec,
)
from exp.study.errors import CaseError
from tests.global_scheduler.fleet import ScriptedEngine, fleet, stream_of

CASE = Case(
    scenario="two units",
    system="test",
    gateway={"policy": "locality", "pools": "none"},
    fleet=Fleet(groups=(UnitGroup(gpu="A30", count=1, speed=20.0), UnitGroup(gpu="H100", count=1))),
    workload=WorkloadSpec(source="conversations", num_requests=30, think_s=0.4),
    rate_per_s=15.0,
    seed=1,
    goals={"*": Goals(ttft_ms=60_000.0)},
)


def changed(**changes: Any) -> Case:
    """The case but for these fields."""
    return msgspec.structs.replace(CASE, **changes)


def test_an_emulated_fleet_plays_the_workload() -> None:
    """Answers are as long as asked, and turns find the ones before them in the caches."""
    records = emulated.run_case(CASE)
    asked = requests_of(CASE, is_emulated=True)
    sizes = [(one.num_prompt_tokens, one.num_output_tokens) for one in records]
    assert sizes == [(one.num_prompt_tokens, one.answer_tokens) for one in asked]
    assert {one.outcome for one in records} == {"ok"}
    assert {one.unit for one in records} <= {"unit-01", "unit-02"}
    assert all(one.is_good and one.decision_ms and one.waited_ms for one in records)
    num_cached_tokens = sum(one.num_cached_tokens for one in records)
    assert num_cached_tokens > 0.3 * sum(one.num_prompt_tokens for one in records)


@pytest.mark.anyio
async def test_a_cluster_becomes_the_system_and_gets_the_load() -> None:
    """What the case's options do not name is as by default again, whatever it was before."""
    chunk = b'data: {"choices":[{"text":"a"}]}\n\n'
    behave = stream_of(chunk, b"data: [DONE]\n\n")
    engines = [ScriptedEngine(behave=behave), ScriptedEngine(behave=behave)]
    async with fleet(*engines, pools="static", policy="random") as running:
        url = str(running.client.base_url)
        case = changed(gateway={"policy": "round_robin", "queue_order": "sjf"})
        records = await anyio.to_thread.run_sync(cluster.run_case, case, f"{url}/v1")
        assert (await running.client.get("/admin/policy")).json()["policy"] == "round_robin"
        pools = (await running.client.get("/admin/pools")).json()
        larger = changed(fleet=Fleet(groups=(UnitGroup(gpu="A30", count=3),)))
        with pytest.raises(CaseError, match="3 units are asked for, the gateway has 2"):
            await anyio.to_thread.run_sync(cluster.run_case, larger, url)
    assert (pools["queue_order"], pools["pools"]) == ("sjf", "none")
    assert [one.outcome for one in records] == ["ok"] * 30
    assert {one.unit for one in records} == {"u0", "u1"}
    bodies = [json.loads(body) for engine in engines for _, body in engine.requests]
    assert sorted((len(body["prompt"]), body["max_tokens"]) for body in bodies) == sorted(
        (one.num_prompt_tokens, one.max_tokens) for one in requests_of(case, is_emulated=False)
    )
    assert all(body["ignore_eos"] for body in bodies)


def test_the_fleet_is_the_cases(tmp_path: Path) -> None:
    """GPUs, speeds, caching, standby units and the gateway's options reach the command lines."""
    case = changed(
        fleet=Fleet(
            groups=(UnitGroup(gpu="A30", count=2), UnitGroup(gpu="H100", count=1, speed=0.5)),
            prefix_caching=False,
            num_standby=1,
            standby_start_s=7.0,
        ),
        lengths=LengthBelief(kind="running_mean"),
    )
    plan = emulated.plan_of(case, tmp_path)
    assert [part.title for part in plan.parts if part.role == "engine"] == [
        "engine unit-01",
        "engine unit-02",
    ]
    gateway = plan.parts[-1].command
    assert {"--policy=locality", "--pools=none", "--length-estimator=none"} <= set(gateway)
    (standby,) = json.loads((tmp_path / "standby_units.json").read_bytes())["units"]
    engine, sidecar = standby["provisioner"]["commands"]
    assert standby["name"] == "unit-03"
    assert "sleep 7; exec" in engine
    assert "--gpu H100" in engine
    assert "--speed 0.5" in engine
    assert "--gpu H100" in sidecar
    config = plan.parts[0].command[plan.parts[0].command.index("--model-config") + 1]
    assert json.loads(Path(config).read_bytes())["enable_prefix_caching"] is False


def test_goals_and_lengths_are_sent_as_the_case_says() -> None:
    """Emulated engines are told an answer's length where the gateway does not see it, others by
    ``max_tokens``; texts are sent where lengths are estimated by them."""
    chats = msgspec.structs.replace(CASE.workload, source="sharegpt")
    goals = {"short": Goals(ttft_ms=5.0, tpot_ms=2.0, are_sent=True)}
    emulated_one = requests_of(changed(workload=chats, goals=goals), is_emulated=True)[0]
    assert emulated_one.prompt
    assert (emulated_one.slo_ttft_ms, emulated_one.slo_tpot_ms) == (5.0, 2.0)
    assert not emulated_one.ignore_eos
    by_mean = changed(workload=chats, lengths=LengthBelief(kind="running_mean"))
    real_one = requests_of(by_mean, is_emulated=False)[0]
    assert real_one.prompt is None
    assert real_one.ignore_eos
    assert real_one.max_tokens == emulated_one.answer_tokens
    assert real_one.slo_ttft_ms is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lengths": LengthBelief(kind="oracle")}, "lengths.kind oracle: only the twin"),
        ({"twin": TwinOptions(migration="llumnix")}, "twin.migration llumnix: only the twin"),
        (
            {"twin": TwinOptions(failures=(Failure(unit=0, at_s=1.0, for_s=1.0),))},
            "twin.failures 1: only the twin",
        ),
    ],
)
def test_what_only_the_twin_can_do_is_refused(changes: dict[str, Any], said: str) -> None:
    """Before anything is started."""
    with pytest.raises(CaseError, match=said):
        emulated.run_case(changed(**changes))
    with pytest.raises(CaseError, match=said):
        cluster.run_case(changed(**changes), "http://127.0.0.1:9")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_attempts": "5"}, "it runs with 4. Start it with --max-attempts=5"),
        ({"polcy": "random"}, "gateway.polcy 'random': Extra inputs are not permitted"),
        ({"policy": "best"}, "gateway.policy 'best': Input should be"),
    ],
)
async def test_what_a_running_gateway_cannot_become_is_refused(
    options: dict[str, str], said: str
) -> None:
    """With the option, and how to start it; what it runs with already is no matter."""
    async with fleet(ScriptedEngine(), max_attempts=4) as running:
        admin = Admin(str(running.client.base_url))
        with pytest.raises(CaseError, match=said):
            await anyio.to_thread.run_sync(cluster.switch, admin, options)
        await anyio.to_thread.run_sync(
            cluster.switch, admin, {"max_attempts": "4", "policy": "random"}
        )
        assert (await running.client.get("/admin/policy")).json()["policy"] == "random"
