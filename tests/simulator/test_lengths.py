"""The compiled formulas of expected lengths are those of ``predictor/remaining.py``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.remaining import expected_remaining, quantile_at, remaining_tokens
from predictor.simulator.kernel.lengths import over_lengths
from predictor.simulator.kernel.lengths import remaining_tokens as compiled_remaining_tokens
from tests.predictor.test_remaining import distributions


@given(distributions(), st.integers(0, 2000), st.integers(1, 4000))
def test_remaining_tokens_are_those_of_the_live_formula(
    points: list[tuple[float, float]], num_generated: int, room: int
) -> None:
    """For distributions and for single numbers."""
    most = num_generated + room
    array = np.array(points)
    expected = remaining_tokens(points, num_generated, most)
    assert compiled_remaining_tokens(0.0, array, len(points), num_generated, most) == expected
    number = points[-1][1]
    expected = remaining_tokens(number, num_generated, most)
    assert compiled_remaining_tokens(number, array, 0, num_generated, most) == expected


@given(distributions(), st.integers(1, 4000))
def test_time_over_lengths_is_that_of_the_live_formula(
    points: list[tuple[float, float]], room: int
) -> None:
    """Where each token takes the same time, and the first one none."""
    rounded = [(p, max(1, round(tokens))) for p, tokens in points]
    most = rounded[-1][1] + room
    array, marks = np.array(rounded, dtype=float), np.unique([tokens for _, tokens in rounded])
    found = over_lengths(array, marks, 2.0 + 0.01 * marks, 2.0, 0.01, most, np.empty_like(array))
    assert found == pytest.approx(
        (
            0.01 * expected_remaining(rounded, 0.0, most),
            0.01 * min(quantile_at(rounded, 0.5), most),
            0.01 * min(quantile_at(rounded, 0.9), most),
            expected_remaining(rounded, 0.0, most),
        )
    )
