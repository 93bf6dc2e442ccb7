"""Expected remaining output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.remaining import mean_of_quantiles, remaining_tokens


def test_a_sequence_is_expected_to_end_at_its_estimate() -> None:
    """Until it gets there."""
    assert remaining_tokens(200.0, 50, 1000) == 150


def test_a_sequence_beyond_its_estimate_grows_by_half_of_itself() -> None:
    """The longer it is, the more is to come."""
    assert remaining_tokens(200.0, 200, 1000) == 100
    assert remaining_tokens(200.0, 400, 1000) == 200


@given(st.floats(0, 1e6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_at_least_one_token_and_no_more_than_allowed(
    estimate: float, generated: int, max_tokens: int
) -> None:
    """Whatever the estimate says."""
    remaining = remaining_tokens(estimate, generated, max_tokens)
    assert 1 <= remaining <= max(1, max_tokens - generated)


@pytest.mark.parametrize(
    ("quantiles", "mean"),
    [
        ({0.5: 100.0}, 100.0),
        ({0.0: 0.0, 1.0: 100.0}, 50.0),
        ({0.5: 100.0, 0.9: 300.0}, 0.5 * 100 + 0.4 * 200 + 0.1 * 300),
    ],
)
def test_the_mean_integrates_the_quantile_function(
    quantiles: dict[float, float], mean: float
) -> None:
    """Linear between the points, constant outside."""
    assert mean_of_quantiles(quantiles) == pytest.approx(mean)
