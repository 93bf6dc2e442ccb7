"""When each setting is without effect, by the pure rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exp.twin.run import CaseSettings
from global_scheduler.__main__ import read_settings
from global_scheduler.effects.base import Running, RunningUnit
from global_scheduler.effects.rules import RULES, without_effect
from global_scheduler.settings import GatewaySettings
from wire.prediction import Slo

UNIT = RunningUnit(models=("m",))
BARE = RunningUnit(has_sidecar=False, models=("m",))
LIMITED = RunningUnit(has_own_limit=True, models=("m",))
JOINED = RunningUnit(models=("m",), is_standby=True)
TWO = (UNIT, UNIT)
GOAL = {"goals": (Slo(ttft_ms=900.0),)}
STANDBY = {"standby_kinds": frozenset({"ssh"})}
LIMIT = {"worker_concurrency_limit": 8}


def idle(
    units: tuple[RunningUnit, ...] = TWO, facts: dict[str, Any] | None = None, **given: Any
) -> set[str]:
    """Names of the settings without effect."""
    settings = CaseSettings.model_validate({"worker_concurrency_limit": "none"} | given)
    running = Running(settings=settings, units=units, **(facts or {}))
    return {one.setting for one in without_effect(running)}


ALWAYS = {
    *("scheduler", "env_file", "host", "port", "unit", "hosts", "workers", "log_level"),
    *("max_body_bytes", "engine_timeout_s", "health_interval_s", "health_timeout_s"),
    *("tokenizer", "request_log", "api_key", "engine_api_key", "admin_token", "quota"),
}
"""Settings that do something whatever else is set."""


def test_every_setting_has_a_rule_or_always_an_effect() -> None:
    """Whoever adds a setting says which."""
    ruled = {name for rule in RULES for name in rule.settings}
    assert ruled | ALWAYS == set(GatewaySettings.model_fields)
    assert not ruled & ALWAYS


def test_defaults_are_silent() -> None:
    """With units that have sidecars, and before there are any units."""
    assert idle() == idle(()) == idle((UNIT,)) == set()


@pytest.mark.parametrize("name", ["router_static.env", "router_dynamic.env"])
def test_the_routers_of_adasplit_are_silent(name: str) -> None:
    """All that stands in their files has an effect, with its four units."""
    path = Path(__file__).parents[2] / "config" / name
    settings = read_settings(["--env-file", str(path)])
    assert without_effect(Running(settings=settings, units=(UNIT,) * 4)) == []


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # (setting, where it has no effect, what more gives it one)
    ("policy", {"units": (BARE, BARE)}, {"units": (BARE, UNIT)}),
    ("pools", {"pools": "qhap"}, LIMIT),
    ("pools", {"pools": "static", "units": (UNIT,)}, {"units": TWO}),
    ("pools", {"pools": "static", "units": (UNIT,)}, {"facts": STANDBY}),
    ("pools", {"pools": "static", "units": (UNIT, RunningUnit(models=("n",)))}, {"units": TWO}),
    ("queue_order", {"queue_order": "edf", "policy": "random"}, LIMIT),
    ("queue_order", {"queue_order": "edf", "policy": "random"}, {"policy": "min_total_delay"}),
    ("queue_order", {"queue_order": "edf", "policy": "random"}, {"facts": GOAL}),
    ("queue_order", {"queue_order": "edf", "hold_above_ms": "never"}, {"hold_above_ms": 100}),
    ("queue_order", {"queue_order": "edf", "units": (BARE, BARE)}, {"units": TWO}),
    ("queue_order", {"queue_order": "edf", "policy": "random"}, {"units": (LIMITED, LIMITED)}),
    ("queue_order", {"queue_order": "edf", "policy": "random", "units": (LIMITED, UNIT)}, LIMIT),
    (
        "queue_order",
        {"queue_order": "edf", "policy": "random"},
        {"units": (UNIT, RunningUnit(has_own_limit=True, models=("m", "n")))},
    ),
    ("queue_order", {"queue_order": "edf", "policy": "random"}, {"pools": "qhap"}),
    (
        "queue_order",
        {"queue_order": "edf", "policy": "random", "pools": "static"},
        {"num_long_units": 0},
    ),
    (
        "queue_order",
        {"queue_order": "edf", "hold_above_ms": "never", "facts": GOAL},
        {"slo_miss": "wait"},
    ),
    ("max_overtakes", {"max_overtakes": 3, "policy": "min_llumnix_load"}, LIMIT),
    ("max_queued_requests", {"max_queued_requests": 3, "policy": "affinity"}, LIMIT),
    ("max_queue_age_s", {"max_queue_age_s": 3, "policy": "locality"}, LIMIT),
    ("worker_concurrency_limit", LIMIT | {"units": (LIMITED, LIMITED)}, {"units": (LIMITED, UNIT)}),
    (
        "worker_concurrency_limit",
        {"worker_concurrency_limit": "auto", "units": (BARE, BARE)},
        {"units": TWO},
    ),
    ("auto_limit_tpot_ms", {"auto_limit_tpot_ms": 30}, {"worker_concurrency_limit": "auto"}),
    (
        "auto_limit_tpot_ms",
        {
            "auto_limit_tpot_ms": 30,
            "worker_concurrency_limit": "auto",
            "facts": {"goals": (Slo(tpot_ms=20.0),), "has_goals_for_all": True},
        },
        {"facts": {"goals": (Slo(tpot_ms=20.0),)}},
    ),
    ("hold_above_ms", {"hold_above_ms": 90, "policy": "token_load"}, {"policy": "min_total_delay"}),
    ("num_query_predictors", {"num_query_predictors": 1, "policy": "random"}, {"facts": GOAL}),
    ("num_query_predictors", {"num_query_predictors": 2}, {"num_query_predictors": 1}),
    ("prediction_deadline_ms", {"prediction_deadline_ms": 9, "policy": "random"}, {"facts": GOAL}),
    ("coalesce_ms", {"coalesce_ms": 9, "units": (BARE,)}, {"units": TWO}),
    ("length_estimator", {"length_estimator": "none", "policy": "random"}, {"pools": "static"}),
    (
        "length_estimator",
        {"length_estimator": "none", "policy": "random", "queue_order": "sjf"},
        LIMIT,
    ),
    (
        "length_deadline_ms",
        {"length_deadline_ms": 9, "length_estimator": "none"},
        {"length_estimator": "default"},
    ),
    ("slo", {"slo": ["*=900"], "facts": GOAL, "units": (BARE, BARE)}, {"units": TWO}),
    (
        "slo",
        {"slo": ["*=900"], "facts": GOAL, "units": (BARE, BARE)},
        LIMIT | {"queue_order": "edf"},
    ),
    ("slo_miss", {"slo_miss": "wait", "units": (BARE,)}, {"units": TWO}),
    ("slo_headroom", {"slo_headroom": "most", "units": (BARE,)}, {"units": TWO}),
    ("shed_below", {"shed_below": 2, "slo_miss": "wait"}, {"slo_miss": "shed"}),
    ("num_long_units", {"num_long_units": 2, "pools": "predictive"}, {"pools": "static"}),
    ("qhap_min_long", {"qhap_min_long": 1, "pools": "static"}, {"pools": "predictive"}),
    ("qhap_scale_up_above", {"qhap_scale_up_above": 1}, {"pools": "qhap"}),
    ("stealing", {"stealing": "rasp"}, {"pools": "qhap"}),
    ("stealing", {"stealing": "off", "pools": "static", "policy": "random"}, {"num_long_units": 0}),
    (
        "rasp_tau_cool_s",
        {"rasp_tau_cool_s": 9, "pools": "qhap", "stealing": "off"},
        {"stealing": "rasp"},
    ),
    (
        "long_threshold_tokens",
        {"long_threshold_tokens": 9, "policy": "random"},
        {"pools": "static"},
    ),
    ("long_threshold_tokens", {"long_threshold_tokens": 9, "policy": "random"}, LIMIT),
    ("learn_threshold", {"learn_threshold": True}, {"pools": "static"}),
    (
        "learn_threshold",
        {"learn_threshold": True, "pools": "qhap", "units": (BARE, BARE)},
        {"units": TWO},
    ),
    ("control_interval_s", {"control_interval_s": 9}, {"pools": "static"}),
    ("quota_deadline_ms", {"quota_deadline_ms": 9}, {"facts": {"has_quotas": True}}),
    ("quota_when_unknown", {"quota_when_unknown": "closed"}, {"facts": {"has_quotas": True}}),
    ("redis_url", {"redis_url": "redis://x"}, {"facts": {"has_quotas": True}}),
    (
        "quota_store",
        {"quota_store": "q", "facts": {"has_quotas": True}, "redis_url": "redis://x"},
        {"redis_url": None},
    ),
    ("request_log_max_bytes", {"request_log_max_bytes": 9}, {"request_log": "x"}),
    ("provisioning", {"provisioning": "reactive"}, {"facts": STANDBY}),
    ("provisioning", {"policy": "random", "facts": STANDBY}, {"provisioning": "reactive"}),
    ("provisioning", {"policy": "random", "facts": STANDBY}, LIMIT),
    (
        "provisioning_idle_s",
        {"provisioning_idle_s": 9, "facts": STANDBY, "provisioning": "off"},
        {"provisioning": "reactive"},
    ),
    ("min_units", {"min_units": 2}, {"facts": STANDBY}),
    ("keep_standby_units", {"keep_standby_units": True}, {"facts": STANDBY}),
    (
        "standby_dir",
        {"standby_dir": "x", "facts": STANDBY},
        {"facts": {"standby_kinds": frozenset({"process"})}},
    ),
    ("standby_units", {"standby_units": "x", "facts": STANDBY, "max_units": 2}, {"max_units": 3}),
    (
        "standby_units",
        {"standby_units": "x", "facts": STANDBY, "max_units": 2},
        {"units": (UNIT, JOINED)},
    ),
    ("max_attempts", {"max_attempts": 2, "units": (UNIT,)}, {"units": TWO}),
    ("seed", {"seed": 1, "policy": "round_robin"}, {"policy": "least_outstanding"}),
]


@pytest.mark.parametrize(("setting", "given", "more"), CASES)
def test_a_setting_has_no_effect_until_it_gets_what_it_lacks(
    setting: str, given: dict[str, Any], more: dict[str, Any]
) -> None:
    """Each rule both ways."""
    assert setting in idle(**given)
    assert setting not in idle(**(given | more))


def test_each_rule_is_tried() -> None:
    """Some case above names each reason's setting."""
    tried = {setting for setting, _, _ in CASES}
    assert all(tried & set(rule.settings) for rule in RULES)


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({"learn_threshold": True}, "--learn-threshold true: "),
        ({"qhap_cooldown_s": 2.0}, "--qhap-cooldown-s 2: "),
        ({"slo": ["a=900", "b=80,20"]}, "--slo a=900,b=80,20: "),
    ],
)
def test_lines_name_flags_and_values_as_they_are_typed(given: dict[str, Any], typed: str) -> None:
    """So that they can be found on the command line."""
    running = Running(settings=CaseSettings.model_validate(given), units=(BARE, BARE))
    assert any(typed in str(one) for one in without_effect(running))


def test_what_is_secret_is_masked() -> None:
    """The address of a Redis may hold a password."""
    settings = CaseSettings.model_validate({"redis_url": "redis://:secret@host"})
    (one,) = without_effect(Running(settings=settings, units=TWO))
    assert one.setting == "redis_url"
    assert "secret" not in str(one)
