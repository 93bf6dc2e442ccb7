"""Figures of predictions, computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from length_estimation.accuracy import Predictions, accuracy

LEVELS = [0.1, 0.5, 0.9]
TRUE = np.array([100, 200, 400])


def predictions(*medians: float, spread: float = 2.0) -> Predictions:
    """Quantiles at the median divided by the spread, the median, and the median times it."""
    middle = np.log(medians)[:, None]
    return Predictions(np.array(medians), middle + np.log([1 / spread, 1, spread]))


def test_a_perfect_predictor() -> None:
    """The truth predicted without any spread has no error and is always within its interval."""
    found = accuracy(TRUE, predictions(100, 200, 400, spread=1), LEVELS)
    assert (found.mae, found.mape, found.acc_50, found.acc_100) == (0, 0, 1, 1)
    assert (found.kendall_tau, found.r2, found.coverage_80) == (1, 1, 1)
    assert found.pinball == pytest.approx(0)


def test_errors_in_tokens() -> None:
    """Errors of 50, 100 and 120 tokens: bounds are included."""
    found = accuracy(TRUE, predictions(150, 100, 520), LEVELS)
    assert found.mae == pytest.approx(90)
    assert found.mape == pytest.approx((0.5 + 0.5 + 0.3) / 3)
    assert found.acc_50 == pytest.approx(1 / 3)
    assert found.acc_100 == pytest.approx(2 / 3)


def test_rank_correlation() -> None:
    """Two of three pairs in order, one reversed: (2 - 1) / 3."""
    assert accuracy(TRUE, predictions(150, 100, 520), LEVELS).kendall_tau == pytest.approx(1 / 3)


def test_explained_variance() -> None:
    """Squared errors 2500 + 10000 + 14400 against 140000 / 3 about the mean, 700 / 3."""
    found = accuracy(TRUE, predictions(150, 100, 520), LEVELS)
    assert found.r2 == pytest.approx(1 - 26_900 / (140_000 / 3))


def test_pinball_loss() -> None:
    """The quantiles 50, 100 and 200 of an answer of 100: ln 2 * 0.1 twice, and nothing."""
    found = accuracy(np.array([100]), predictions(100), LEVELS)
    assert found.pinball == pytest.approx(2 * 0.1 * math.log(2) / 3)


def test_pinball_loss_weighs_sides_by_level() -> None:
    """A quantile 0.9 that is too low costs nine times one that is too high."""
    point = np.array([100.0])
    low, high = (
        accuracy(np.array([100]), Predictions(point, np.log([[100, 100, q]])), LEVELS).pinball
        for q in (50.0, 200.0)
    )
    assert low == pytest.approx(9 * high)


def test_coverage_includes_the_bounds() -> None:
    """Answers of 50 and 200 are just within 50..200; 201 is not, nor 49."""
    found = accuracy(np.array([50, 200, 201, 49]), predictions(100, 100, 100, 100), LEVELS)
    assert found.coverage_80 == 0.5


def test_a_constant_ranks_nothing() -> None:
    """A constant prediction has rank correlation 0, and at the mean explains no variance."""
    found = accuracy(np.array([100, 300]), predictions(200, 200), LEVELS)
    assert (found.kendall_tau, found.r2) == (0, 0)


def test_constant_answers() -> None:
    """Where all answers are alike there is no variance to explain."""
    assert accuracy(np.array([100, 100]), predictions(100, 100), LEVELS).r2 == 1
    assert accuracy(np.array([100, 100]), predictions(100, 101), LEVELS).r2 == 0


def test_what_cannot_be_compared() -> None:
    """Nothing, empty answers, other shapes, no numbers and missing levels are named."""
    good = predictions(100, 200, 400)
    with pytest.raises(ValueError, match="no request"):
        accuracy(TRUE[:0], good, LEVELS)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        accuracy(TRUE - 100, good, LEVELS)
    with pytest.raises(ValueError, match=r"tokens has shape \(3,\), not \(2,\)"):
        accuracy(TRUE[:2], good, LEVELS)
    with pytest.raises(ValueError, match="log_quantiles has values that are not finite"):
        accuracy(TRUE, replace(good, log_quantiles=good.log_quantiles * np.nan), LEVELS)
    with pytest.raises(ValueError, match=r"needs the quantile 0\.1"):
        accuracy(TRUE, good, [0.2, 0.5, 0.9])
