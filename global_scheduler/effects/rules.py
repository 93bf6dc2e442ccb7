"""When each setting has no effect, one rule for each reason.

A rule holds for settings that are away from their defaults, or whatever they are where the default,
too, promises what cannot be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from global_scheduler.effects import lacks
from global_scheduler.effects.base import Lack, Running, WithoutEffect
from global_scheduler.settings.queueing import FIRST_LIMIT

ORDERS_BY_GOALS = ("edf", "slo_aware", "cost_optimized", "adaptive")
RANDOM_FREE = "round_robin"
"""The policy that draws nothing by chance."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Why settings can have no effect."""

    settings: tuple[str, ...]
    lack: Callable[[Running], Lack | None]
    also_by_default: bool = False


def without_effect(running: Running) -> list[WithoutEffect]:
    """The settings that can have no effect, each with the first reason found."""
    found: dict[str, WithoutEffect] = {}
    for rule in RULES:
        for name in rule.settings:
            if name in found or not (rule.also_by_default or running.is_set(name)):
                continue
            if lack := rule.lack(running):
                found[name] = WithoutEffect(name, running.shown(name), *lack)
    return list(found.values())


def _policy(running: Running) -> Lack | None:
    """It cannot have what it needs."""
    lack = lacks.of_sidecars(running)
    if lack is None or running.needs == "nothing":
        return None
    return Lack(f"{lack.why}, so that least_outstanding decides in its place", lack.remedy)


def _drawing(running: Running) -> Lack | None:
    """Only some sidecars are asked."""
    if running.needs == "nothing" and not running.goals:
        why = f"policy {running.settings.policy} asks no sidecar {lacks.BUT_FOR_GOALS}"
        return Lack(why, lacks.PREDICTING)
    if running.units and running.settings.num_query_predictors >= len(running.units):
        return Lack("there are no more units than that, and all are asked", "a smaller number")
    return None


def _length_deadline(running: Running) -> Lack | None:
    if running.settings.length_estimator == "none":
        return Lack("no length estimator is asked", "--length-estimator default")
    return lacks.of_lengths(running)


def _seed(running: Running) -> Lack | None:
    draws = 0 < running.settings.num_query_predictors < len(running.units)
    if draws or running.settings.policy != RANDOM_FREE:
        return None
    return Lack(f"policy {RANDOM_FREE} draws nothing by chance", "another policy")


def _attempts(running: Running) -> Lack | None:
    if len(running.units) != 1 or running.standby_kinds:
        return None
    return Lack("there is no other unit to try", "another unit")


def _limit(running: Running) -> Lack | None:
    """It stands behind units' own limits; ``auto`` is derived by asking sidecars."""
    if running.units and all(unit.has_own_limit for unit in running.units):
        return Lack("every unit has a limit of its own", "units without one")
    is_derived = running.settings.worker_concurrency_limit == "auto"
    if is_derived and (lack := lacks.of_sidecars(running)):
        return Lack(
            f"{lack.why}, so that limits stay as they are, at first {FIRST_LIMIT}", lack.remedy
        )
    return None


def _auto_limit_goal(running: Running) -> Lack | None:
    if running.settings.worker_concurrency_limit != "auto":
        return Lack("limits are not derived", "--worker-concurrency-limit auto")
    if running.has_goals_for_all and all(goal.tpot_ms for goal in running.goals):
        return Lack("--slo names a TPOT goal for every model", "a model without one")
    return _limit(running)


def _qhap(running: Running) -> Lack | None:
    """Its rule alone: the units are divided all the same."""
    if running.settings.pools != "qhap" or running.has_limits:
        return None
    why = (
        "its rule, by the long requests that wait, has nothing to look at: without a limit a long "
        "unit takes all of them at once"
    )
    return Lack(why, "--worker-concurrency-limit, such as AdaSplit's 8, or auto")


def _long_units(running: Running) -> Lack | None:
    if running.settings.pools in ("static", "qhap"):
        return lacks.of_groups(running)
    return Lack(f"--pools is {running.settings.pools}", "--pools static or qhap")


def _qhap_limits(running: Running) -> Lack | None:
    if running.settings.pools in ("qhap", "predictive"):  # what they do while nobody gives prices
        return lacks.of_groups(running)
    return Lack(f"--pools is {running.settings.pools}", "--pools qhap")


def _stealing(running: Running) -> Lack | None:
    settings = running.settings
    if lack := lacks.of_pools(running):
        return lack
    if settings.pools == "static" and settings.num_long_units == 0:
        return None  # whether a unit has to be long depends on it
    return lacks.of_waiting(running)


def _idle_before_stealing(running: Running) -> Lack | None:
    if running.settings.stealing == "off":
        return Lack("no request is stolen: --stealing is off", "--stealing rasp or predictive")
    return _stealing(running)


def _threshold(running: Running) -> Lack | None:
    """Classes tell who goes to which pool, and who waits behind whom."""
    undivided, unheld = lacks.of_pools(running), lacks.of_waiting(running)
    if undivided is None or unheld is None:
        return None
    return Lack(f"{undivided.why}, and {unheld.why}", f"{undivided.remedy}; {unheld.remedy}")


def _learning(running: Running) -> Lack | None:
    return lacks.of_pools(running) or lacks.of_sidecars(running)


def _looks(running: Running) -> Lack | None:
    if running.settings.worker_concurrency_limit == "auto" or lacks.of_pools(running) is None:
        return None
    why = "nobody looks at pools or limits: only their metrics are refreshed so often"
    return Lack(why, "--pools, or --worker-concurrency-limit auto")


def _goals(running: Running) -> Lack | None:
    """Sidecars predict whether they are met, and some orders go by them."""
    lack = lacks.of_sidecars(running)
    is_ordered_by = running.settings.queue_order in ORDERS_BY_GOALS
    if lack is None or (is_ordered_by and lacks.of_waiting(running) is None):
        return None
    return Lack(f"{lack.why} to predict whether goals are met: they are only counted", lack.remedy)


def _shedding(running: Running) -> Lack | None:
    if running.settings.slo_miss == "shed":
        return lacks.of_sidecars(running)
    return Lack(f"--slo-miss is {running.settings.slo_miss}", "--slo-miss shed")


def _quotas(running: Running) -> Lack | None:
    return None if running.has_quotas else Lack("no key has a quota", "--quota")


def _quota_store(running: Running) -> Lack | None:
    if running.settings.redis_url is not None:
        return Lack("uses are counted in Redis", "no --redis-url")
    return _quotas(running)


def _request_log(running: Running) -> Lack | None:
    return None if running.settings.request_log else Lack("nothing is logged", "--request-log")


def _standby(running: Running) -> Lack | None:
    return None if running.standby_kinds else Lack("there are no standby units", "--standby-units")


def _provisioning(running: Running) -> Lack | None:
    """Who wants none and has none need not be told."""
    return None if running.settings.provisioning == "off" else _standby(running)


def _joining(running: Running) -> Lack | None:
    """What makes units join or leave."""
    if (lack := _standby(running)) or running.settings.provisioning != "off":
        return lack
    return Lack("--provisioning is off", "--provisioning preemptive or reactive")


def _preemptive(running: Running) -> Lack | None:
    """What is predicted, and the age of what waits."""
    if not running.standby_kinds or running.settings.provisioning != "preemptive":
        return None
    unpredicted, unheld = lacks.of_forecasts(running), lacks.of_waiting(running)
    if unpredicted is None or unheld is None:
        return None
    why = f"{unpredicted.why}, and nothing waits: only --min-units makes standby units join"
    return Lack(why, f"--provisioning reactive, or {unpredicted.remedy}")


def _standby_units(running: Running) -> Lack | None:
    """Those that run already are taken in, however many there are."""
    most, num_units = running.settings.max_units, len(running.units)
    if most is None or num_units < most or any(unit.is_standby for unit in running.units):
        return None
    why = f"none may be started: {num_units} units are there, and --max-units is {most}"
    return Lack(why, "a larger --max-units")


def _standby_folder(running: Running) -> Lack | None:
    if not running.standby_kinds or "process" in running.standby_kinds:
        return _standby(running)
    return Lack("no standby unit is a process of this machine", "a standby unit of kind process")


RULES = (
    Rule(("policy",), _policy, also_by_default=True),
    Rule(("pools",), _qhap),
    Rule(("pools",), lacks.of_groups),
    Rule(
        ("queue_order", "max_overtakes", "max_queued_requests", "max_queue_age_s"),
        lacks.of_waiting,
    ),
    Rule(("worker_concurrency_limit",), _limit),
    Rule(("auto_limit_tpot_ms",), _auto_limit_goal),
    Rule(("hold_above_ms",), lacks.of_forecasts),
    Rule(("num_query_predictors",), _drawing),
    Rule(("prediction_deadline_ms", "coalesce_ms"), lacks.of_questions),
    Rule(("length_estimator",), lacks.of_lengths),
    Rule(("length_deadline_ms",), _length_deadline),
    Rule(("slo",), _goals),
    Rule(("slo_miss", "slo_headroom"), lacks.of_sidecars),
    Rule(("shed_below",), _shedding),
    Rule(("num_long_units",), _long_units),
    Rule(
        (
            "qhap_scale_up_above",
            "qhap_scale_down_below",
            "qhap_cooldown_s",
            "qhap_min_short",
            "qhap_min_long",
        ),
        _qhap_limits,
    ),
    Rule(("stealing",), _stealing),
    Rule(("rasp_tau_cool_s",), _idle_before_stealing),
    Rule(("long_threshold_tokens",), _threshold),
    Rule(("learn_threshold",), _learning),
    Rule(("control_interval_s",), _looks),
    Rule(("quota_store",), _quota_store),
    Rule(("redis_url", "quota_deadline_ms", "quota_when_unknown"), _quotas),
    Rule(("request_log_max_bytes",), _request_log),
    Rule(("standby_units",), _standby_units),
    Rule(("provisioning",), _preemptive, also_by_default=True),
    Rule(("provisioning",), _provisioning),
    Rule(
        ("provisioning_start_timeout_s", "provisioning_backoff_s", "keep_standby_units"),
        _standby,
    ),
    Rule(("standby_dir",), _standby_folder),
    Rule(
        (
            "provisioning_latency",
            "provisioning_limit_ms",
            "provisioning_late_requests",
            "provisioning_window_s",
            "provisioning_idle_s",
            "provisioning_cooldown_s",
            "min_units",
            "max_units",
        ),
        _joining,
    ),
    Rule(("max_attempts",), _attempts),
    Rule(("seed",), _seed),
)
