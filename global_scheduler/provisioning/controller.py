"""When standby units join and leave. Pure: the clock is an argument, acting is the caller's.

A unit joins when requests are late, predicted or observed; one joins in each cooldown. It leaves
when for a while the fleet could have done without it. Its life: ::

    off -> starting -> serving -> draining -> stopping -> off
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from global_scheduler.provisioning.base import Action, FleetUnit, Rules, Situation, Standby

LOST_AFTER_S = 30.0
"""A unit that has joined and then was not healthy for so long is stopped; one that was healthy for
as long has left its failures behind."""
SPARE_LOAD = 0.5
"""A unit can be spared when its requests and those of the others that serve its models would take
at most this share of what the others can run."""

UNLISTED = "it is not listed any more"


class Controller:
    """Decides, and keeps account of each standby unit's life."""

    def __init__(self, rules: Rules, standby: Iterable[Standby]) -> None:
        self.rules = rules
        self.standby = {one.name: one for one in standby}
        self._changed_s = float("-inf")
        """The last join or leave: the cooldown begins."""
        self._counted_from_s = float("-inf")
        """What was late before says nothing of the fleet as it is now."""
        self._short_since_s: float | None = None

    def decide(self, situation: Situation, now_s: float) -> list[Action]:
        """What is to be done now; to be called about once a second."""
        units = {unit.name: unit for unit in situation.units}
        actions = []
        for one in self.standby.values():
            action = self._follow(one, units.get(one.name), situation, now_s)
            if action is not None:
                actions.append(action)
        if self.rules.mode == "off":
            self._short_since_s = None
            return actions
        change = self._try_join(situation, now_s) or self._try_leave(situation, now_s)
        if change is not None:
            actions.append(change)
            self._changed_s = self._counted_from_s = now_s
        return actions

    def relist(self, models: Mapping[str, str | None]) -> None:
        """Take another list of units, by name and with the model that each serves.

        Who stays stays as it is. Who is not named any more ends what it runs, is stopped, and is
        to be forgotten (``forget``) when it is off.
        """
        known = self.standby
        self.standby = {name: known.get(name) or Standby(name, models[name]) for name in models}
        gone = {name: one for name, one in known.items() if name not in models}
        self.standby.update(gone)
        for one in self.standby.values():
            one.is_listed = one.name in models

    def forget(self, name: str) -> None:
        """A unit that is off is none of the standby units any more."""
        assert self.standby[name].is_at_rest
        del self.standby[name]

    def renew(self, name: str, model: str | None) -> None:
        """A unit that is off is defined anew: nothing is held against it."""
        assert self.standby[name].is_at_rest
        self.standby[name] = Standby(name, model)

    def started(self, name: str) -> None:
        """The provisioner has set it going."""
        self.standby[name].is_busy = False

    def start_failed(self, name: str, error: str, now_s: float) -> None:
        """The provisioner could not start it."""
        one = self.standby[name]
        one.is_busy = False
        one.enter("off", now_s)
        one.fail(error, now_s, self.rules.backoff_s)

    def adopted(self, name: str, now_s: float) -> None:
        """It was found running."""
        self._join(self.standby[name], now_s)

    def stopped(self, name: str, now_s: float) -> None:
        """The provisioner has stopped it."""
        one = self.standby[name]
        one.is_busy = False
        one.enter("off", now_s)

    def stop_failed(self, name: str, error: str, now_s: float) -> None:
        """The provisioner could not stop it. What has joined surely runs: it is tried again."""
        one = self.standby[name]
        one.is_busy = False
        one.enter("stopping" if one.has_joined else "off", now_s)
        one.fail(error, now_s, self.rules.backoff_s)

    def _follow(
        self, one: Standby, unit: FleetUnit | None, situation: Situation, now_s: float
    ) -> Action | None:
        """Take a unit on to its next state."""
        is_well = unit is not None and unit.healthy
        if one.state in ("starting", "serving") and one.name in situation.broken:
            return self._give_up(one, situation.broken[one.name], now_s)
        if one.state == "starting" and is_well:
            self._join(one, now_s)
        if not one.is_listed and one.state == "serving":
            one.enter("draining", now_s)
            return Action("drain", one.name, UNLISTED)
        if not one.is_listed and one.state == "starting" and not one.is_busy:
            return self._stop(one, UNLISTED, now_s)
        if one.state == "serving":
            return self._watch(one, unit, situation, now_s)
        if one.state == "starting" and not one.is_busy:
            if now_s - one.since_s >= self.rules.start_timeout_s:
                error = f"was not healthy within {self.rules.start_timeout_s:g} s"
                return self._give_up(one, error, now_s)
        elif one.state == "draining" and (unit is None or not unit.active):
            return self._stop(one, "it runs nothing any more", now_s)
        elif one.state == "stopping" and not one.is_busy and now_s >= one.retry_s:
            return self._stop(one, f"again, after: {one.last_error}", now_s)
        return None

    def _watch(
        self, one: Standby, unit: FleetUnit | None, situation: Situation, now_s: float
    ) -> Action | None:
        """See whether a unit that has joined is well, and whether it could be spared."""
        if unit is not None and unit.healthy:
            one.well_s = now_s
            if now_s - one.since_s >= LOST_AFTER_S:
                one.num_failures = 0
        elif now_s - one.well_s >= LOST_AFTER_S:
            return self._give_up(one, f"has not been healthy for {LOST_AFTER_S:g} s", now_s)
        if unit is None or not _is_spare(unit, situation.units):
            one.spare_since_s = None
        elif one.spare_since_s is None:
            one.spare_since_s = now_s
        return None

    def _join(self, one: Standby, now_s: float) -> None:
        one.enter("serving", now_s)
        one.has_joined, one.well_s, one.last_error = True, now_s, None
        self._counted_from_s = now_s

    def _give_up(self, one: Standby, error: str, now_s: float) -> Action:
        one.fail(error, now_s, self.rules.backoff_s)
        return self._stop(one, error, now_s)

    def _stop(self, one: Standby, reason: str, now_s: float) -> Action:
        one.enter("stopping", now_s)
        one.is_busy = True
        return Action("stop", one.name, reason)

    def _try_join(self, situation: Situation, now_s: float) -> Action | None:
        is_short = self._is_short(situation, now_s)
        is_rested = now_s - self._changed_s >= self.rules.cooldown_s
        listed = [one for one in self.standby.values() if one.is_listed]
        for one in listed:
            if one.state == "draining" and (is_short or self._is_late(one, situation, now_s)):
                one.enter("serving", now_s)
                return Action("keep", one.name, "it is needed after all")
        most = self.rules.max_units
        if most is not None and self._num_present(situation) >= most:
            return None
        # One that has failed must not keep another one from being tried.
        for one in sorted(listed, key=lambda one: one.num_failures):
            if one.state != "off" or now_s < one.retry_s:
                continue
            if is_short or (is_rested and self._is_late(one, situation, now_s)):
                one.enter("starting", now_s)
                one.is_busy, one.has_joined = True, False
                return Action("start", one.name, self._why(is_short))
        return None

    def _try_leave(self, situation: Situation, now_s: float) -> Action | None:
        able = sum(unit.takes_requests for unit in situation.units)
        is_rested = now_s - self._changed_s >= self.rules.cooldown_s
        if not is_rested or able <= self.rules.min_units:
            return None
        for one in reversed(self.standby.values()):
            if one.state != "serving" or self._is_late(one, situation, now_s):
                continue
            if one.spare_since_s is not None and now_s - one.spare_since_s >= self.rules.idle_s:
                one.enter("draining", now_s)
                return Action("drain", one.name, f"not needed for {self.rules.idle_s:g} s")
        return None

    def _is_late(self, one: Standby, situation: Situation, now_s: float) -> bool:
        """Whether enough requests that the unit could serve have lately been late."""
        since_s = max(now_s - self.rules.window_s, self._counted_from_s)
        late = sum(
            latency.latency_ms > self.rules.limit_ms
            and latency.at_s > since_s
            and one.model in (None, latency.model)
            for latency in situation.latencies
        )
        return late >= self.rules.num_late

    def _is_short(self, situation: Situation, now_s: float) -> bool:
        """Whether fewer units than the least have taken requests for a whole cooldown."""
        starting = sum(one.state == "starting" for one in self.standby.values())
        able = sum(unit.takes_requests for unit in situation.units)
        if able + starting >= self.rules.min_units:
            self._short_since_s = None
            return False
        if self._short_since_s is None:
            self._short_since_s = now_s
        return now_s - self._short_since_s >= self.rules.cooldown_s

    def _num_present(self, situation: Situation) -> int:
        """Units that run or may come back: configured ones that are away, too."""
        configured = sum(unit.name not in self.standby for unit in situation.units)
        return configured + sum(one.state != "off" for one in self.standby.values())

    def _why(self, is_short: bool) -> str:
        if is_short:
            return f"fewer than {self.rules.min_units} units take requests"
        kind = "observed" if self.rules.mode == "reactive" else "best predicted"
        return (
            f"{self.rules.num_late} requests within {self.rules.window_s:g} s whose {kind} latency"
            f" is above {self.rules.limit_ms:g} ms"
        )


def _is_spare(unit: FleetUnit, units: Iterable[FleetUnit]) -> bool:
    others = [
        other
        for other in units
        if other.name != unit.name and other.takes_requests and other.models & unit.models
    ]
    active = unit.active + sum(other.active for other in others)
    return bool(others) and active <= SPARE_LOAD * sum(other.places for other in others)
