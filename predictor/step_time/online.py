"""Learns step times from a running engine.

Recursive least squares with forgetting, kept as normal equations: each step adds its own, and those
of earlier steps fade. What holds it together:

* Coefficients stay non-negative.
* The prior, a model such as the roofline, stays in the equations with the weight of a few steps, so
  that whatever the engine has not shown yet keeps a sensible time.
* Steps with a prefill fade only with further steps of their kind: thousands of decodes in a row do
  not wash out what prefills cost.
* A time far from the expected one counts only as if it were at the edge of what noise explains. If
  most of the last steps of a kind were far off, the engine has changed: what that kind had taught
  is dropped for those last steps, and the prior is scaled to them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from predictor.step_time.accuracy import accuracy
from predictor.step_time.base import StepTimeModel
from predictor.step_time.fitted import FEATURES, FittedStepTime, design_of, features
from predictor.step_time.least_squares import Floats, solve_nonnegative
from predictor.step_time.records import StepFeed
from wire.model_config import ModelConfig
from wire.snapshot import StepRecord

FORGETTING = 0.998
"""What a step's weight is multiplied by at the next step of its kind."""
PRIOR_STEPS = 5.0
"""How many steps the prior weighs as much as."""
WINDOW = 1000
"""Steps over which the figures run."""
_RECENT = 50
_EDGE = 1.25
"""Times count as if they were at most this multiple of the expected one, or its reciprocal."""
_CREDIBLE = 1.5
"""When half of the last steps are further off than this multiple, the engine has changed."""
_LEAST_S = 1e-6
_FEW = 5
"""Steps that are too few to tell an engine that has changed from a hiccup."""


@dataclass(frozen=True, slots=True)
class StepTimeFigures:
    """How good predictions were, each made before its step was learnt from."""

    num_steps: int
    """Learnt from so far."""
    num_refused: int
    """Records that could not be true."""
    r2: float
    mape: float
    drift: float
    """Mean error of the last 50 steps over that of the last 1000: well above 1 when the engine
    has just become another."""


@dataclass(frozen=True, slots=True)
class _Step:
    batch: Floats
    duration_s: float
    expected_s: float


class _Memory:
    """What one kind of step has taught."""

    def __init__(self) -> None:
        self.last: deque[_Step] = deque(maxlen=2 * _FEW)
        self._forget()

    def add(self, step: _Step) -> None:
        self.last.append(step)
        least, most = step.expected_s / _EDGE, step.expected_s * _EDGE
        self._add(step.batch, min(max(step.duration_s, least), most), step.expected_s)

    def is_off(self) -> bool:
        """Whether most of the last steps, few as they may be, were far from expected."""
        if not self.last:
            return False
        median = _median(step.duration_s / step.expected_s for step in self.last)
        return not 1 / _CREDIBLE <= median <= _CREDIBLE

    def restart(self) -> None:
        """Know the last steps only, as they were."""
        self._forget()
        for step in self.last:
            self._add(step.batch, step.duration_s, step.duration_s)
        self.last.clear()

    def _forget(self) -> None:
        self.gram: Floats = np.zeros((len(FEATURES), len(FEATURES)))
        self.moments: Floats = np.zeros(len(FEATURES))

    def _add(self, batch: Floats, duration_s: float, scale_s: float) -> None:
        """Errors count relative to ``scale_s``.

        That is the time expected: relative to those observed, noise would make all times too short.
        """
        row = batch / scale_s
        self.gram = FORGETTING * self.gram + row[:, None] * row
        self.moments = FORGETTING * self.moments + row * (duration_s / scale_s)


class OnlineStepTime:
    """The step times of one engine. Not for several threads at once."""

    def __init__(self, prior: StepTimeModel, model: ModelConfig) -> None:
        """Start out like ``prior`` for the batches that ``model`` allows; takes some 50 ms."""
        self._design = design_of(prior, model)
        self._prior = np.array(self._design.fit().coefficients)
        self._prior_scale = 1.0
        self._coefficients = self._prior
        self._decodes, self._prefills = _Memory(), _Memory()
        self._feed = StepFeed()
        self._times: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        """Observed and expected seconds."""
        self._num_steps = 0

    def observe(self, records: Sequence[StepRecord]) -> int:
        """Learn from the records of a snapshot; how many were new and could be used."""
        fresh = self._feed.fresh(records)
        for record in fresh:
            self._learn(record)
        return len(fresh)

    def model(self) -> FittedStepTime:
        """The model as it is now; it does not change any more."""
        return FittedStepTime(self._design.knot, tuple(self._coefficients.tolist()))

    def figures(self) -> StepTimeFigures:
        """See ``StepTimeFigures``; NaN before there are steps."""
        observed, predicted = zip(*self._times, strict=True) if self._times else ((), ())
        window = accuracy(observed, predicted)
        recent = accuracy(observed[-_RECENT:], predicted[-_RECENT:])
        return StepTimeFigures(
            num_steps=self._num_steps,
            num_refused=self._feed.num_refused,
            r2=window.r2,
            mape=window.mape,
            drift=recent.mape / window.mape if window.mape else 1.0,
        )

    def _learn(self, record: StepRecord) -> None:
        batch = features(record, self._design.knot)
        # An engine that claims absurd batches may have led to no time at all for this one.
        expected_s = max(float(batch @ self._coefficients), _LEAST_S)
        step = _Step(batch, record.duration_s, expected_s)
        self._times.append((step.duration_s, step.expected_s))
        self._num_steps += 1
        memory = self._prefills if record.num_prefill_tokens else self._decodes
        memory.add(step)
        if len(memory.last) >= _FEW and memory.is_off():
            self._start_anew(memory)
        self._solve()

    def _start_anew(self, changed: _Memory) -> None:
        self._prior_scale = _median(
            step.duration_s / max(float(step.batch @ self._prior), _LEAST_S)
            for step in changed.last
        )
        for memory in (self._decodes, self._prefills):
            if memory.is_off():
                memory.restart()

    def _solve(self) -> None:
        gram, moments = self._decodes.gram, self._decodes.moments
        prior_weight = PRIOR_STEPS / self._prior_scale
        self._coefficients = solve_nonnegative(
            gram + self._prefills.gram + prior_weight / self._prior_scale * self._design.gram,
            moments + self._prefills.moments + prior_weight * self._design.moments,
            self._coefficients,
        )


def _median(values: Iterable[float]) -> float:
    ranked = sorted(values)
    return ranked[len(ranked) // 2]
