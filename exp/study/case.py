"""One run of a study: a system, a fleet, a workload, a rate and a seed. The same for all backends.

A case is a value that travels: to a worker process or a Ray node, and into ``config.json``.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Value(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Immutable, and strict about unknown fields."""


class UnitGroup(_Value, frozen=True):
    """Equal units."""

    gpu: str
    """As in ``predictor/step_time/gpus.py``."""
    count: Positive
    speed: PositiveFloat = 1.0
    """Divides step times; what a neighbour or a worn fan does to a unit. Sidecars are not told."""


class Fleet(_Value, frozen=True):
    """The units; named ``unit-01`` and so on, group by group."""

    groups: tuple[UnitGroup, ...]
    model_config: str = "config/llama_config.json"
    prefix_caching: bool | None = None
    """None: as the model's configuration says."""
    num_standby: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the units, the last so many are away until the gateway provisions them, but for those of
    its ``min_units``."""
    standby_start_s: PositiveFloat = 30.0
    """How long such a unit takes to start."""


class Arrivals(_Value, frozen=True):
    """When requests come, at a mean rate that the case gives."""

    kind: Literal["poisson", "gamma", "trace", "on_off", "diurnal"] = "poisson"
    burstiness: PositiveFloat = 1.0
    """Of ``gamma`` and ``on_off``: the shape of gamma-distributed gaps, as vLLM's benchmark has it.
    1 is a Poisson process, less comes in bursts."""
    on_s: float = 60.0
    off_s: float = 60.0
    off_share: Share = 0.0
    """Of ``on_off``: the rate in OFF phases over that in ON phases."""
    period_s: PositiveFloat = 86_400.0
    depth: Share = 0.5
    """Of ``diurnal``: how far a sine of this period swings around the mean rate."""


class WorkloadSpec(_Value, frozen=True):
    """What requests are made of."""

    source: Literal[
        "sharegpt", "conversations", "lengths", "mixed", "synthetic",
        "azure", "burstgpt", "mooncake", "arxiv",
    ]  # fmt: skip
    """``sharegpt``: first turns; ``conversations``: whole ShareGPT conversations, a session each;
    ``lengths``: a CSV of lengths; ``mixed``: ``sharegpt`` (or ``path``) and long synthetic prompts;
    ``synthetic``: drawn lengths; the others read the public files of these names at ``path``."""
    path: str | None = None
    arrivals: Arrivals = Arrivals()
    num_requests: Positive = 3_000
    max_model_len: Positive = 4_096
    """Longer requests are left out."""
    prompt_tokens: str = "64-512"
    """Of ``synthetic``, and of the long requests of ``mixed``: a number or ``LOW-HIGH``."""
    output_tokens: str = "64-256"
    long_share: Share = 0.1
    """Of ``mixed``: long requests among all. With ``on_off`` arrivals only they come and go."""
    think_s: PositiveFloat = 20.0
    """Of ``conversations``: mean time from one turn to the next."""
    tokenizer: str | None = None
    """A tokenizer.json for texts; without it their tokens are estimated from their bytes."""


class LengthBelief(_Value, frozen=True):
    """What the gateway is told of an answer's length in the twin; ``error`` is the standard
    deviation of the logarithm."""

    kind: Literal["oracle", "noisy", "quantiles", "running_mean"] = "quantiles"
    """``oracle``: the truth; ``noisy``: one number, off by the error; ``quantiles``: a distribution
    as wide as the error; ``running_mean``: what the gateway does without an estimator."""
    error: Annotated[float, msgspec.Meta(ge=0)] = 0.6
    """As large as that of the model that comes with Astrolabe, on ShareGPT."""


class Failure(_Value, frozen=True):
    """A unit dies, and comes back empty."""

    unit: Annotated[int, msgspec.Meta(ge=0)]
    at_s: float
    for_s: PositiveFloat


class TwinOptions(_Value, frozen=True):
    """What is only true in the twin."""

    step_noise: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    """Standard deviation of each step's duration, as a share."""
    step_error: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    """By which each unit's sidecar is wrong about its step times: standard deviation of the
    logarithm of one factor for each unit."""
    state_interval_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Sidecars see the engine's state as of its last step; with more than 0 only so often."""
    network_ms: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """One way between gateway and unit."""
    is_calibrated: bool = True
    """Sidecars learn from what was observed, as live ones do."""
    migration: Literal["none", "llumnix"] = "none"
    """``llumnix``: running requests move between units as Llumnix has it, for the time their KV
    takes over the network. Real vLLM units cannot."""
    failures: tuple[Failure, ...] = ()


class Goals(_Value, frozen=True):
    """Latency goals of a class of requests: what goodput is judged by."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    are_sent: bool = False
    """Also told to the gateway with each request."""


class Case(_Value, frozen=True):
    """One run."""

    scenario: str
    """What it is shown under: the fleet and the workload in a word or two."""
    system: str
    """The name of the scheduler under test, as in ``exp/study/systems.py``."""
    gateway: dict[str, str]
    """Its settings by their names, such as ``{"policy": "round_robin"}``; others stay as they are
    by default."""
    fleet: Fleet
    workload: WorkloadSpec
    rate_per_s: PositiveFloat
    seed: int
    lengths: LengthBelief = LengthBelief()
    goals: dict[str, Goals] = {}
    """By class of requests; ``*`` for all others."""
    twin: TwinOptions = TwinOptions()

    @property
    def key(self) -> str:
        """Different for cases that differ in anything."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]

    def goals_of(self, request_class: str) -> Goals:
        """Of a class."""
        return self.goals.get(request_class) or self.goals.get("*") or Goals()
