"""A synthetic engine with a known bias, and the calibration of what is predicted for it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from predictor.calibration import Calibration
from predictor.calibration.regions import Region
from wire.prediction import EndedRequest, Prediction

LOADS: dict[Region, dict[str, int]] = {
    "idle": {},
    "running": {"num_running": 5},
    "queue": {"num_running": 9, "num_waiting": 3},
    "kv_pressure": {"num_running": 9, "num_waiting": 3, "kv_blocks_free": 5},
}
NORMAL_P90 = 1.2816
MEDIAN_TOKENS, TOKENS_SPREAD = 200.0, 0.7


def predicted(
    request_id: str, ttft_ms: float, tpot_ms: float, region: Region, num_tokens: float = 200.0
) -> Prediction:
    """What a backend says of a request of a known length."""
    e2e_ms = ttft_ms + tpot_ms * (num_tokens - 1)
    state = {"num_running": 0, "num_waiting": 0, "kv_blocks_free": 90} | LOADS[region]
    return Prediction(
        request_id=request_id,
        queue_ms=ttft_ms / 2,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        e2e_ms=e2e_ms,
        added_delay_others_ms=0.0,
        kv_blocks_total=100,
        kv_blocks_wanted=0,
        num_preempted=0,
        num_unprocessed_tokens=0,
        state_source="plugin",
        state_age_ms=1.0,
        backend="fast",
        time_to_predict_ms=0.1,
        num_running=state["num_running"],
        num_waiting=state["num_waiting"],
        kv_blocks_free=state["kv_blocks_free"],
    )


@dataclass(frozen=True)
class Bias:
    """How an engine departs from what is predicted."""

    factor: float = 1.0
    added_ms: float = 0.0
    noise: float = 0.15


@dataclass
class Unit:
    """A synthetic engine and the calibration of its predictions; a request ends each 0.1 s."""

    bias: Callable[[Region], Bias]
    now_s: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    lies: float = 0.0
    """Share of the outcomes that are absurdly late."""
    answers: list[tuple[Prediction, EndedRequest]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calibration = Calibration(lambda: self.now_s)

    def serve(self, count: int) -> None:
        """Predict, serve and observe so many requests of all regions, lengths unknown before."""
        for _ in range(count):
            self.now_s += 0.1
            region = self.rng.choice(list(LOADS))
            raw = predicted(
                f"r{len(self.answers)}",
                self.rng.lognormvariate(math.log(80), 0.8),
                self.rng.lognormvariate(math.log(12), 0.3),
                region,
                MEDIAN_TOKENS,
            )
            p90_tokens = MEDIAN_TOKENS * math.exp(NORMAL_P90 * TOKENS_SPREAD)
            raw.e2e_p50_ms, raw.e2e_p90_ms = raw.e2e_ms, raw.ttft_ms + raw.tpot_ms * p90_tokens
            answer = self.calibration.calibrate(raw)
            ended = self._meet(raw, self.bias(region))
            self.answers.append((answer, ended))
            self.calibration.observe([ended])

    def _meet(self, raw: Prediction, bias: Bias) -> EndedRequest:
        def noise() -> float:
            return math.exp(self.rng.gauss(0.0, bias.noise))

        num_tokens = max(2, round(self.rng.lognormvariate(math.log(MEDIAN_TOKENS), TOKENS_SPREAD)))
        ttft_ms = (bias.factor * raw.ttft_ms + bias.added_ms) * noise()
        ttft_ms *= 1e4 if self.rng.random() < self.lies else 1.0
        e2e_ms = ttft_ms + bias.factor * raw.tpot_ms * noise() * (num_tokens - 1)
        return EndedRequest(
            request_id=raw.request_id,
            ttft_ms=ttft_ms,
            e2e_ms=e2e_ms,
            num_output_tokens=num_tokens,
        )


def spread_out(raw: Prediction, spread: float) -> Prediction:
    """The prediction with quantiles of its own."""
    for name in ("ttft", "tpot", "e2e"):
        setattr(raw, f"{name}_p50_ms", getattr(raw, f"{name}_ms"))
        setattr(raw, f"{name}_p90_ms", getattr(raw, f"{name}_ms") * spread)
    return raw
