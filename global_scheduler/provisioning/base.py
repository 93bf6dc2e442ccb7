"""What decides about standby units sees, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

Mode = Literal["off", "reactive", "preemptive"]
"""By what requests have met, or by what they are predicted to meet when they arrive."""
Quantity = Literal["ttft", "e2e"]
"""The latency that counts."""
State = Literal["off", "starting", "serving", "draining", "stopping"]
STATES: tuple[State, ...] = ("off", "starting", "serving", "draining", "stopping")


class ProvisionerFailed(Exception):
    """A unit could not be started or stopped; the message says why."""


class Provisioner(Protocol):
    """Starts and stops one standby unit. A failed start is taken to leave nothing running."""

    async def start(self) -> None:
        """Set the unit going, without waiting until it is healthy.

        Raises:
            ProvisionerFailed: with the reason.
        """

    async def stop(self) -> None:
        """End the unit; no harm if it does not run.

        Raises:
            ProvisionerFailed: with the reason.
        """

    def try_failure(self) -> str | None:
        """Why the unit, once started, can never become healthy; None as long as it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When units join and leave."""

    mode: Mode = "preemptive"
    limit_ms: float = 2_000.0
    """A request with a longer latency is late."""
    num_late: int = 3
    """Late requests, within ``window_s``, that make a unit join."""
    window_s: float = 10.0
    idle_s: float = 60.0
    """A unit that could be spared for so long leaves."""
    cooldown_s: float = 30.0
    """From one join or leave to the next."""
    min_units: int = 1
    """That take requests."""
    max_units: int | None = None
    """Those that only may be running counted; None: as many as there are."""
    start_timeout_s: float = 600.0
    """A unit that is not healthy by then has failed."""
    backoff_s: float = 10.0
    """After a failure; doubled with each one that follows."""


@dataclass(frozen=True, slots=True)
class Latency:
    """One request's, predicted or observed. Times are on the scheduler's clock."""

    at_s: float
    model: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class FleetUnit:
    """One unit that the gateway knows, standby or not."""

    name: str
    models: frozenset[str]
    active: int
    places: int
    """Requests that it can run at a time."""
    healthy: bool = True
    draining: bool = False

    @property
    def takes_requests(self) -> bool:
        """Whether it is capacity."""
        return self.healthy and not self.draining


@dataclass(frozen=True, slots=True)
class Situation:
    """The fleet at one moment."""

    units: tuple[FleetUnit, ...]
    latencies: tuple[Latency, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    """Standby units that can never become healthy, and why."""


@dataclass(frozen=True, slots=True)
class Action:
    """To be carried out. ``keep`` takes a draining unit back in."""

    kind: Literal["start", "drain", "keep", "stop"]
    unit: str
    reason: str


@dataclass(slots=True)
class Standby:
    """One standby unit and how it is."""

    name: str
    model: str | None = None
    """The one it serves; None: any."""
    state: State = "off"
    since_s: float = float("-inf")
    """When it came into this state."""
    is_busy: bool = False
    """Its provisioner is at work."""
    has_joined: bool = False
    """It has taken requests since it was started."""
    well_s: float = float("-inf")
    """When it was last seen healthy."""
    spare_since_s: float | None = None
    """From when on it could have been spared."""
    num_failures: int = 0
    """In a row."""
    is_listed: bool = True
    """False once another list does not name it any more: it ends what it runs, and goes."""
    retry_s: float = float("-inf")
    """Not tried again before."""
    last_error: str | None = None

    @property
    def is_at_rest(self) -> bool:
        """It does not run, and nobody is about to start or stop it."""
        return self.state == "off" and not self.is_busy

    def enter(self, state: State, now_s: float) -> None:
        """Come into a state."""
        self.state, self.since_s, self.spare_since_s = state, now_s, None

    def fail(self, error: str, now_s: float, backoff_s: float) -> None:
        """Something went wrong: wait, longer each time."""
        self.num_failures += 1
        self.last_error = error
        self.retry_s = now_s + min(backoff_s * 2 ** (self.num_failures - 1), LONGEST_BACKOFF_S)


LONGEST_BACKOFF_S = 600.0
