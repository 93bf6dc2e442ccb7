"""The orders that fits rest on are numpy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from predictor.calibration.residual import median, quantile


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.0, 1.0))
def test_medians_and_quantiles_are_those_of_numpy(values: list[float], probability: float) -> None:
    """For any number of values and any probability, its ends included."""
    array = np.array(values)
    assert median(array) == np.median(array)
    assert quantile(array, probability) == np.quantile(array, probability)
    assert quantile(array, 1.0) == max(values)
