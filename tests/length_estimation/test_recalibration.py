"""Corrections learnt from observed lengths: what they must reach, and what they must withstand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from length_estimation.online.correction import LARGEST_FACTOR, Floats, quantiles
from length_estimation.online.recalibration import WINDOW, Recalibration, Recalibrations

LEVELS: Floats = np.array([0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95])
NORMAL: Floats = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
LOW, MEDIAN, HIGH = 1, 6, 11
SPREAD = 0.8
"""Of log tokens, as predicted."""

Truth = Callable[[np.random.Generator, float], float]
"""From a generator and a predicted log median to the log of the tokens."""


@dataclass
class Score:
    """How predictions fared that were made before their outcomes were learnt from."""

    is_covered: list[bool] = field(default_factory=list)
    """By the 80 % interval."""
    errors: list[float] = field(default_factory=list)
    """Observed log tokens less the corrected median."""
    raw_errors: list[float] = field(default_factory=list)

    @property
    def coverage(self) -> float:
        """Of the 80 % interval."""
        return float(np.mean(self.is_covered))

    @property
    def error_ratio(self) -> float:
        """Mean absolute error over that without correction."""
        return float(np.mean(np.abs(self.errors)) / np.mean(np.abs(self.raw_errors)))


def predicted(rng: np.random.Generator) -> Floats:
    """Log quantiles of some request."""
    quantiles: Floats = rng.normal(5.3, 0.5) + SPREAD * NORMAL
    return quantiles


def simulate(
    truth: Truth,
    *,
    recalibration: Recalibration | None = None,
    max_tokens: int | None = None,
    num_unscored: int = WINDOW,
    num_scored: int = 1500,
) -> Score:
    """Predict and learn, request after request; uncut lengths are scored."""
    rng = np.random.default_rng(1)
    recalibration = recalibration or Recalibration(LEVELS)
    score = Score()
    for index in range(num_unscored + num_scored):
        raw = predicted(rng)
        log_tokens = max(truth(rng, float(raw[MEDIAN])), 0.0)
        if index >= num_unscored:
            corrected = recalibration.apply(raw)
            score.is_covered.append(bool(corrected[LOW] <= log_tokens <= corrected[HIGH]))
            score.errors.append(log_tokens - corrected[MEDIAN])
            score.raw_errors.append(log_tokens - raw[MEDIAN])
        num_tokens = round(math.exp(log_tokens))
        is_cut = max_tokens is not None and num_tokens >= max_tokens
        told = max_tokens if is_cut and max_tokens is not None else num_tokens
        recalibration.observe(raw, told, is_cut=is_cut)
    return score


TRUTHS: dict[str, Truth] = {
    "as predicted": lambda rng, median: rng.normal(median, SPREAD),
    "three times as verbose": lambda rng, median: rng.normal(median + math.log(3), SPREAD),
    "thirty times as verbose": lambda rng, median: rng.normal(median + math.log(30), SPREAD),
    "a tenth as verbose": lambda rng, median: rng.normal(median - math.log(10), SPREAD),
    "surer": lambda rng, median: rng.normal(median, 0.4 * SPREAD),
    "less sure": lambda rng, median: rng.normal(median, 1.8 * SPREAD),
    "whatever the prompt": lambda rng, median: rng.normal(5.0, SPREAD),
    "lopsided": lambda rng, median: median + SPREAD * (rng.gamma(2.0) - 2.0),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_intervals_cover_what_they_say_once_the_window_is_full(name: str) -> None:
    """However the served model differs from the training data."""
    score = simulate(TRUTHS[name])
    assert 0.75 <= score.coverage <= 0.85
    assert abs(float(np.median(score.errors))) < 0.1


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("as predicted", 1.03),
        ("three times as verbose", 0.65),
        ("thirty times as verbose", 0.25),
        ("a tenth as verbose", 0.35),
        ("whatever the prompt", 0.90),
    ],
)
def test_the_error_falls(name: str, most: float) -> None:
    """And grows hardly where there was nothing to correct."""
    assert simulate(TRUTHS[name]).error_ratio < most


def test_few_observations_help_already() -> None:
    """Answers three times as long: half of the excess error is gone after twenty of them."""
    early = simulate(TRUTHS["three times as verbose"], num_unscored=20, num_scored=60)
    assert early.error_ratio < 0.8


def test_equal_answers_are_learnt() -> None:
    """A model that always answers with 100 tokens is expected to do so, whatever is predicted."""
    score = simulate(lambda rng, median: math.log(100))
    assert np.max(np.abs(score.errors)) < 0.2
    assert np.mean(np.abs(score.errors)) < 0.05


def test_a_sudden_change_is_forgotten_with_the_window() -> None:
    """Half as verbose, then four times: a window later nothing of the former is left."""
    recalibration = Recalibration(LEVELS)
    simulate(lambda rng, median: rng.normal(median - 0.7, SPREAD), recalibration=recalibration)
    score = simulate(
        lambda rng, median: rng.normal(median + 1.4, SPREAD), recalibration=recalibration
    )
    assert 0.75 <= score.coverage <= 0.85
    assert abs(float(np.median(score.errors))) < 0.1


def test_nothing_changes_before_the_first_observation() -> None:
    """Not in the last digit."""
    raw = predicted(np.random.default_rng(0))
    assert Recalibration(LEVELS).apply(raw).tolist() == raw.tolist()


def test_one_observation_that_fits_changes_little() -> None:
    """A prediction that came true needs no correction."""
    raw = predicted(np.random.default_rng(0))
    recalibration = Recalibration(LEVELS)
    recalibration.observe(raw, round(math.exp(raw[MEDIAN])), is_cut=False)
    assert np.abs(recalibration.apply(raw) - raw).max() < 0.1


@pytest.mark.parametrize(("max_tokens", "truth"), [(16, 0.0), (200, 0.0), (300, math.log(3))])
def test_cut_answers_do_not_pass_for_short_ones(max_tokens: int, truth: float) -> None:
    """However many are cut, what uncut answers would be is still predicted well."""
    score = simulate(lambda rng, median: rng.normal(median + truth, SPREAD), max_tokens=max_tokens)
    assert abs(float(np.median(score.errors))) < 0.15
    assert 0.70 <= score.coverage <= 0.90


def test_one_liar_does_little() -> None:
    """An outcome of 10^9 tokens among a hundred true ones, and as the first of all."""
    rng = np.random.default_rng(0)
    raw = predicted(rng)
    honest, deceived = Recalibration(LEVELS), Recalibration(LEVELS)
    for _ in range(100):
        num_tokens = round(math.exp(rng.normal(raw[MEDIAN], SPREAD)))
        honest.observe(raw, num_tokens, is_cut=False)
        deceived.observe(raw, num_tokens, is_cut=False)
    honest.observe(raw, round(math.exp(raw[MEDIAN])), is_cut=False)
    deceived.observe(raw, 10**9, is_cut=False)
    assert np.abs(deceived.apply(raw) - honest.apply(raw)).max() < math.log(1.15)
    alone = Recalibration(LEVELS)
    alone.observe(raw, 10**9, is_cut=False)
    assert abs(alone.apply(raw)[MEDIAN] - raw[MEDIAN]) < math.log(1.4)


def test_the_factor_is_bounded() -> None:
    """Even if all lie."""
    recalibration = Recalibration(LEVELS)
    raw = predicted(np.random.default_rng(0))
    for _ in range(WINDOW):
        recalibration.observe(raw, 10**15, is_cut=False)
    assert recalibration.apply(raw)[MEDIAN] - raw[MEDIAN] < math.log(LARGEST_FACTOR) + SPREAD
    assert recalibration.figures().factor <= LARGEST_FACTOR


outcomes = st.lists(
    st.tuples(
        st.floats(-3, 20),
        st.lists(st.floats(0, 3), min_size=12, max_size=12),
        st.integers(0, 10**9),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150)
@given(outcomes)
def test_corrected_quantiles_are_finite_and_rise(
    seen: list[tuple[float, list[float], int, bool]],
) -> None:
    """Whatever was predicted and observed, widths of zero included."""
    recalibration = Recalibration(LEVELS, window=16)
    for lowest, steps, num_tokens, is_cut in seen:
        raw: Floats = np.cumsum([lowest, *steps])
        corrected = recalibration.apply(raw)
        assert np.isfinite(corrected).all()
        assert (np.diff(corrected) >= -1e-9).all()
        recalibration.observe(raw, num_tokens, is_cut=is_cut)


def test_the_censored_quantiles_are_those_worked_out_by_hand() -> None:
    """Of 1, 2+, 3, 4 (2 was cut) the weights are 1/4, 0, 3/8, 3/8."""
    found = quantiles(
        np.array([0.125, 0.4375, 0.8125]),
        np.array([4.0, 2.0, 1.0, 3.0]),
        np.array([False, True, False, False]),
    )
    assert found.tolist() == pytest.approx([1.0, 3.0, 4.0])


def test_models_are_corrected_apart_and_their_number_is_bounded() -> None:
    """The one not heard of for the longest gives way."""
    recalibrations = Recalibrations(LEVELS.tolist(), max_models=2)
    raw = predicted(np.random.default_rng(0))
    for model in ("first", "second", "first", "third"):
        recalibrations.observe(model, raw, 10, is_cut=False)
    assert recalibrations.find("second") is None
    assert recalibrations.find("unheard of") is None
    assert {name: f.num_observations for name, f in recalibrations.figures().items()} == {
        "first": 2,
        "third": 1,
    }


def test_correcting_is_quick() -> None:
    """Tens of microseconds, and a few milliseconds with a new fit; ten times as long at most."""
    rng = np.random.default_rng(0)
    recalibration = Recalibration(LEVELS)
    for _ in range(WINDOW):
        is_cut = bool(rng.integers(2))
        recalibration.observe(predicted(rng), int(rng.integers(1, 1000)), is_cut=is_cut)
    raw = predicted(rng)
    started_s = time.thread_time()
    recalibration.apply(raw)
    fit_s = time.thread_time() - started_s
    for _ in range(100):
        recalibration.apply(raw)
    apply_s = (time.thread_time() - started_s - fit_s) / 100
    assert fit_s < 0.1
    assert apply_s < 0.005
