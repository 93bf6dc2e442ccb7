"""Settings of pools and stealing."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from global_scheduler.pools.classes import THRESHOLD_TOKENS
from global_scheduler.pools.qhap import QhapLimits
from global_scheduler.pools.regimes import PoolsName, RegimeRules
from global_scheduler.pools.stealing import TAU_COOL_S, Stealing
from wire.bounded_numbers import BoundedNumbers

QHAP = QhapLimits()


class PoolSettings(BoundedNumbers):
    """Which units serve which class of requests."""

    pools: PoolsName = Field(
        default="none",
        description="how units are divided between short and long requests: none (every unit "
        "serves both), static (--num-long-units), qhap (by the length of the queue) or predictive "
        "(as sidecars predict is best)",
    )
    long_threshold_tokens: PositiveFloat = Field(
        default=THRESHOLD_TOKENS,
        description="prompt and expected output tokens from which on a request is long",
    )
    learn_threshold: bool = Field(
        default=False,
        description="let the threshold follow what sidecars predict: the one with the fewest "
        "missed latency goals, between a quarter and four times the given one",
    )
    num_long_units: NonNegativeInt = Field(
        default=1, description="long units of static pools; with qhap those at the beginning"
    )
    qhap_scale_up_above: NonNegativeInt = Field(
        default=QHAP.scale_up_above,
        description="a short unit becomes long when more long requests wait",
    )
    qhap_scale_down_below: NonNegativeInt = Field(
        default=QHAP.scale_down_below,
        description="a long unit becomes short when fewer long requests wait",
    )
    qhap_cooldown_s: NonNegativeFloat = Field(
        default=QHAP.cooldown_s, description="shortest time between two moves"
    )
    qhap_min_short: PositiveInt = Field(
        default=QHAP.min_short, description="short units that stay short"
    )
    qhap_min_long: NonNegativeInt = Field(
        default=QHAP.min_long,
        description="long units that stay long; one does in any case with --stealing off",
    )
    stealing: Stealing = Field(
        default="predictive",
        description="when a unit takes a request of the other pool: off (never), rasp (a short "
        "unit that has been idle for a while and whose queue is empty) or predictive (then, and "
        "when a what-if shows that it does no harm)",
    )
    rasp_tau_cool_s: NonNegativeFloat = Field(
        default=TAU_COOL_S,
        description="how long a unit must have been idle to steal by rasp; also taken from "
        "RASP_STEAL_COOLDOWN",
    )
    control_interval_s: PositiveFloat = Field(
        default=1.0, description="time between looks at the pools"
    )
    auto_limit_tpot_ms: PositiveFloat = Field(
        default=50.0,
        description="the TPOT that --worker-concurrency-limit auto keeps for models of which --slo "
        "names none",
    )

    @property
    def regime_rules(self) -> RegimeRules:
        """What pools are made of."""
        qhap = QhapLimits(
            self.qhap_scale_up_above,
            self.qhap_scale_down_below,
            self.qhap_min_short,
            self.qhap_min_long,
            self.qhap_cooldown_s,
        )
        return RegimeRules(self.num_long_units, qhap)
