"""The calibration of one unit: corrects predictions, learns from the requests that have ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from predictor.calibration.figures import CalibrationFigures
from predictor.calibration.learner import LatencyLearner
from predictor.calibration.regions import Region, region_of
from predictor.calibration.residual import Sample, bounded_factor
from wire.prediction import MAX_TOKENS, EndedRequest, Prediction

MAX_REMEMBERED = 65_536
"""Predictions that wait for their outcome; most get none, for their request went elsewhere."""
MAX_AGE_S = 3600.0
"""Outcomes of older predictions are ignored."""
MOST_MS = 86_400_000.0
"""No request takes longer than a day."""
LEAST_MS = 1e-3
CLEARLY_OFF = 1.25
"""Units are compared without smaller corrections. Those differ between equal units by chance, and
between load regions by what later arrivals do to a request wherever it goes."""


class _Raw(msgspec.Struct, frozen=True, gc=False):
    """An uncorrected prediction that waits for its outcome; milliseconds, above 0.

    Of no interest to the garbage collector, which would halt answers to look through all of them.
    """

    asked_at_s: float
    region: Region
    ttft: float
    ttft_p50: float
    ttft_p90: float
    tpot: float
    tpot_p50: float
    tpot_p90: float
    e2e_p50: float
    e2e_p90: float


class Calibration:
    """Not thread-safe. ``clock`` gives seconds that never run backwards."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: OrderedDict[str, _Raw] = OrderedDict()
        self._ttft, self._tpot, self._e2e = LatencyLearner(), LatencyLearner(), LatencyLearner()
        self._num_unknown = 0
        self._num_refused = 0

    def calibrate(self, raw: Prediction) -> Prediction:
        """The prediction with corrected latencies, p50 and p90.

        The raw one is remembered under its request id; a second one of the same id replaces it.
        A prediction without a what-if (backend ``none``) passes unchanged.
        """
        if raw.backend == "none":
            return raw
        region = region_of(raw)
        known = self._remember(raw, region)
        ttft = self._ttft.corrections[region]
        tpot = self._tpot.corrections[region]
        e2e = self._e2e.corrections[region]
        ttft_ms = ttft.mean_ms(raw.ttft_ms)
        ttft_p50_ms = ttft.p50_ms(known.ttft_p50)
        ttft_p90_ms = max(ttft_p50_ms, ttft.p90_ms(known.ttft_p90))
        tpot_p50_ms = tpot.p50_ms(known.tpot_p50)
        e2e_p50_ms = max(ttft_p50_ms, e2e.p50_ms(known.e2e_p50))
        return msgspec.structs.replace(
            raw,
            queue_ms=ttft_ms * (raw.queue_ms / raw.ttft_ms) if raw.ttft_ms > 0.0 else 0.0,
            ttft_ms=ttft_ms,
            ttft_p50_ms=ttft_p50_ms,
            ttft_p90_ms=ttft_p90_ms,
            tpot_ms=tpot.mean_ms(raw.tpot_ms),
            tpot_p50_ms=tpot_p50_ms,
            tpot_p90_ms=max(tpot_p50_ms, tpot.p90_ms(known.tpot_p90)),
            e2e_ms=max(ttft_ms, e2e.mean_ms(raw.e2e_ms)),
            comparable_e2e_ms=raw.e2e_ms * self._pace(),
            e2e_p50_ms=e2e_p50_ms,
            e2e_p90_ms=max(e2e_p50_ms, ttft_p90_ms, e2e.p90_ms(known.e2e_p90)),
        )

    def observe(self, ended: Sequence[EndedRequest]) -> None:
        """Learn from requests that were sent to this unit and ended well.

        Those without a remembered prediction and those whose figures cannot be true are counted
        and otherwise ignored.
        """
        now_s = self._clock()
        for request in ended:
            raw = self._waiting.pop(request.request_id, None)
            if raw is None or now_s - raw.asked_at_s > MAX_AGE_S:
                self._num_unknown += 1
            elif not _is_credible(request):
                self._num_refused += 1
            else:
                self._note(raw, request, now_s)
        for learner in (self._ttft, self._tpot, self._e2e):
            if learner.refit():
                break  # the next one with the next call: predictions wait meanwhile

    def figures(self) -> CalibrationFigures:
        """How well the corrected predictions fared lately."""
        now_s = self._clock()
        learners = {"ttft": self._ttft, "tpot": self._tpot, "e2e": self._e2e}
        return CalibrationFigures(
            latencies={name: learner.figures(now_s) for name, learner in learners.items()},
            num_unknown=self._num_unknown,
            num_refused=self._num_refused,
        )

    def _pace(self) -> float:
        """How much slower the unit is than its model, if that is beyond doubt; else 1."""
        ratio = self._e2e.typical_ratio
        return 1.0 if 1.0 / CLEARLY_OFF < ratio < CLEARLY_OFF else bounded_factor(ratio)

    def _remember(self, raw: Prediction, region: Region) -> _Raw:
        known = _Raw(
            self._clock(),
            region,
            raw.ttft_ms,
            # A backend that knows no distribution leaves the quantiles at 0.
            raw.ttft_p50_ms or raw.ttft_ms,
            raw.ttft_p90_ms or raw.ttft_ms,
            raw.tpot_ms,
            raw.tpot_p50_ms or raw.tpot_ms,
            raw.tpot_p90_ms or raw.tpot_ms,
            raw.e2e_p50_ms or raw.e2e_ms,
            raw.e2e_p90_ms or raw.e2e_ms,
        )
        self._waiting[raw.request_id] = known
        self._waiting.move_to_end(raw.request_id)
        if len(self._waiting) > MAX_REMEMBERED:
            self._waiting.popitem(last=False)
        return known

    def _note(self, raw: _Raw, ended: EndedRequest, now_s: float) -> None:
        """Give each latency that the request shows to its learner."""
        if ended.ttft_ms is not None:
            ttft = Sample(raw.ttft, raw.ttft_p50, raw.ttft_p90, ended.ttft_ms)
            _observe(self._ttft, raw.region, ttft, now_s)
        if ended.num_output_tokens is None:
            return
        num_gaps = ended.num_output_tokens - 1
        if ended.ttft_ms is not None and num_gaps > 0:
            tpot_ms = (ended.e2e_ms - ended.ttft_ms) / num_gaps
            tpot = Sample(raw.tpot, raw.tpot_p50, raw.tpot_p90, tpot_ms)
            _observe(self._tpot, raw.region, tpot, now_s)
        if raw.tpot > 0.0 or num_gaps == 0:  # else the model was never asked for a second token
            reference_ms = raw.ttft + raw.tpot * num_gaps
            e2e = Sample(reference_ms, raw.e2e_p50, raw.e2e_p90, ended.e2e_ms)
            _observe(self._e2e, raw.region, e2e, now_s)


def _observe(learner: LatencyLearner, region: Region, sample: Sample, now_s: float) -> None:
    if all(LEAST_MS <= value_ms <= MOST_MS for value_ms in sample):
        learner.observe(region, sample, now_s)


def _is_credible(ended: EndedRequest) -> bool:
    """The comparisons are false for NaN, too."""
    ttft_ms = 0.0 if ended.ttft_ms is None else ended.ttft_ms
    num_tokens = 1 if ended.num_output_tokens is None else ended.num_output_tokens
    return 0.0 <= ttft_ms <= ended.e2e_ms <= MOST_MS and 1 <= num_tokens <= MAX_TOKENS
