"""What a combination of settings and units lacks. Each says what, or None where nothing is."""

from __future__ import annotations

from global_scheduler.effects.base import Lack, Running
from global_scheduler.queueing import ORDERS

WITH_SIDECARS = "units with a sidecar, as NAME=ENGINE_URL,PREDICTOR_URL"
PREDICTING = "a policy that asks for what-ifs, such as min_total_delay, or latency goals (--slo)"
BUT_FOR_GOALS = "(but for requests whose headers name latency goals)"


def of_sidecars(running: Running) -> Lack | None:
    """Nobody can be asked about any unit."""
    return None if running.has_sidecars else Lack("no unit has a sidecar", WITH_SIDECARS)


def of_questions(running: Running) -> Lack | None:
    """No sidecar is asked anything about a request."""
    if (lack := of_sidecars(running)) or running.needs != "nothing" or running.goals:
        return lack
    return Lack(f"policy {running.settings.policy} asks no sidecar {BUT_FOR_GOALS}", PREDICTING)


def of_forecasts(running: Running) -> Lack | None:
    """Nobody predicts what a request would meet."""
    if lack := of_sidecars(running):
        return lack
    if running.needs in ("simulation", "costs") or running.goals:
        return None
    return Lack(f"policy {running.settings.policy} asks for no what-if {BUT_FOR_GOALS}", PREDICTING)


def of_waiting(running: Running) -> Lack | None:
    """Nothing ever waits in the gateway: every unit has room, and nothing is held back."""
    settings = running.settings
    if running.may_fill_up or (of_pools(running) is None and _long_ones_may_wait(running)):
        return None
    unpredicted = of_forecasts(running)
    if unpredicted is None:
        has_deadlines = any(goal.ttft_ms for goal in running.goals)
        if settings.hold_above_ms != "never" or (settings.slo_miss == "wait" and has_deadlines):
            return None
        unpredicted = Lack("--hold-above-ms is never", "--hold-above-ms")
    return Lack(
        f"nothing waits in the gateway: units have no limit, and {unpredicted.why}",
        f"--worker-concurrency-limit (8 or auto), or {unpredicted.remedy}",
    )


def _long_ones_may_wait(running: Running) -> bool:
    """For want of a long unit. Q-HAP gives the last one up; predictive pools keep one."""
    settings = running.settings
    is_empty = settings.num_long_units == 0 and settings.stealing != "off"
    return settings.pools == "qhap" or (settings.pools == "static" and is_empty)


def of_pools(running: Running) -> Lack | None:
    """No units are divided."""
    if running.settings.pools == "none":
        return Lack("no units are divided", "--pools static, qhap or predictive")
    return of_groups(running)


def of_groups(running: Running) -> Lack | None:
    """No two units serve the same models; those that are yet to come may."""
    if not running.units or running.standby_kinds or running.largest_group > 1:
        return None
    return Lack("no two units serve the same models", "another unit")


def of_lengths(running: Running) -> Lack | None:
    """Nobody wants to know how long answers get."""
    settings = running.settings
    if running.needs != "nothing" or settings.pools != "none":
        return None
    if ORDERS[settings.queue_order].needs_lengths and running.may_fill_up:
        return None
    return Lack(
        f"policy {settings.policy} asks for no lengths, so a running mean stands in",
        "a policy that asks sidecars, such as min_total_delay; --pools; or an order that goes by "
        "lengths, such as sjf, with --worker-concurrency-limit",
    )
