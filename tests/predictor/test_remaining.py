"""Expected remaining output."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from predictor.remaining import (
    OUTGROWN_SHARE,
    expected_remaining,
    length_points,
    mean_of_quantiles,
    quantile_at,
    remaining_tokens,
)

SHAREGPT = length_points({"0.5": 262.0, "0.9": 623.0, "0.99": 934.0})
SHAPES = [
    SHAREGPT,
    [(0.5, 100.0)],
    [(0.0, 50.0), (0.5, 80.0), (0.9, 400.0)],
    [(0.1, 10.0), (0.5, 10.0), (0.9, 10.0), (0.95, 60.0)],
    [(0.25, 100.0), (1.0, 400.0)],
]


@st.composite
def distributions(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Quantiles that rise in probability and do not fall in tokens."""
    probabilities = draw(
        st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True).map(sorted)
    )
    tokens = draw(
        st.lists(
            st.floats(0, 1e5),
            min_size=len(probabilities),
            max_size=len(probabilities),
        ).map(sorted)
    )
    return [(p / 100, t) for p, t in zip(probabilities, tokens, strict=True)]


def test_a_sequence_is_expected_to_end_at_its_one_number() -> None:
    """Until it gets there."""
    assert remaining_tokens(200.0, 50, 1000) == 150


def test_a_sequence_beyond_its_one_number_has_an_exponential_tail() -> None:
    """Which forgets how long it is already, but not where it is cut off."""
    assert remaining_tokens(200.0, 200, 10**6) == OUTGROWN_SHARE * 200
    assert remaining_tokens(200.0, 900, 10**6) == OUTGROWN_SHARE * 200
    assert remaining_tokens(200.0, 900, 1020) == round(120 * (1 - math.exp(-1)))


def test_one_number_is_a_distribution_without_spread() -> None:
    """Whichever way it is given."""
    point = [(0.0, 200.0), (1.0, 200.0)]
    for generated in (0, 50, 199, 200, 500):
        for most in (100, 250, 10**6):
            assert remaining_tokens(point, generated, most) == remaining_tokens(
                200.0, generated, most
            )


@given(st.floats(0, 1e6) | distributions(), st.integers(0, 10**6), st.integers(1, 10**6))
def test_at_least_one_token_and_no_more_than_allowed(
    expected: float | list[tuple[float, float]], generated: int, max_tokens: int
) -> None:
    """Whatever the estimate says."""
    remaining = remaining_tokens(expected, generated, max_tokens)
    assert 1 <= remaining <= max(1, max_tokens - generated)


@pytest.mark.parametrize("points", SHAPES)
@pytest.mark.parametrize("begun", [0.0, 0.3, 0.8, 0.95])
@pytest.mark.parametrize("room", [math.inf, 60.0])
def test_it_is_what_drawn_lengths_have_left_on_average(
    points: list[tuple[float, float]], begun: float, room: float
) -> None:
    """Monte Carlo: lengths are drawn through the quantile function."""
    generated = quantile_at(points, begun)
    most = generated + room
    rng = random.Random(1)
    lengths = [quantile_at(points, rng.random()) for _ in range(20_000)]
    left = [min(length, most) - generated for length in lengths if length > generated]
    mean = sum(left) / len(left)
    spread = math.sqrt(sum((value - mean) ** 2 for value in left) / len(left))
    found = expected_remaining(points, generated, most)
    assert found == pytest.approx(mean, abs=4 * spread / math.sqrt(len(left)) + 1e-6)


@given(distributions(), st.floats(0, 1e5), st.floats(0, 1e3))
def test_the_expected_end_never_comes_closer(
    points: list[tuple[float, float]], generated: float, more: float
) -> None:
    """Whoever has come further is expected to end later."""
    sooner = generated + expected_remaining(points, generated)
    later = generated + more + expected_remaining(points, generated + more)
    assert later >= sooner - 1e-6 * max(1.0, sooner)


@given(distributions(), st.integers(0, 10**5), st.integers(1, 10**5), st.integers(0, 10**5))
def test_more_room_never_shortens(
    points: list[tuple[float, float]], generated: int, most: int, more: int
) -> None:
    """A higher ``max_tokens`` cuts less off."""
    narrow = expected_remaining(points, generated, most)
    assert expected_remaining(points, generated, most + more) >= narrow - 1e-6 * max(1.0, narrow)


@given(st.floats(0, 3000))
def test_it_has_no_jumps(generated: float) -> None:
    """Where the distribution has a tail and no two quantiles are the same."""
    here = expected_remaining(SHAREGPT, generated)
    assert expected_remaining(SHAREGPT, generated + 1e-3) == pytest.approx(here, abs=0.01)


@given(distributions(), st.floats(0, 1e5))
def test_the_last_two_quantiles_lie_on_the_tail(
    points: list[tuple[float, float]], generated: float
) -> None:
    """Beyond the last one the expectation forgets the past, as an exponential does."""
    assume(len(points) > 1 and points[-1][0] < 1 and points[-1][1] > points[-2][1] + 1e-3)
    (before_p, before), (last_p, last) = points[-2:]
    scale = expected_remaining(points, last + generated)
    assert (1 - before_p) * math.exp((before - last) / scale) == pytest.approx(1 - last_p)


@pytest.mark.parametrize(
    ("quantiles", "mean"),
    [
        ({0.0: 0.0, 1.0: 100.0}, 50.0),
        ({0.0: 100.0, 1.0: 100.0}, 100.0),
        ({0.5: 100.0, 1.0: 300.0}, 0.5 * 50 + 0.5 * 200),
        ({0.5: 100.0, 0.9: 300.0}, 0.5 * 50 + 0.4 * 200 + 0.1 * (300 + 200 / math.log(5))),
        ({0.5: 100.0}, 0.5 * 50 + 0.5 * (100 + 100 / math.log(2))),
    ],
)
def test_the_mean_integrates_the_quantile_function(
    quantiles: dict[float, float], mean: float
) -> None:
    """Linear from 0 and between the points, exponential beyond."""
    assert mean_of_quantiles(quantiles) == pytest.approx(mean)


@pytest.mark.parametrize("points", SHAPES)
def test_given_quantiles_come_back(points: list[tuple[float, float]]) -> None:
    """And others lie between their neighbours."""
    assert [quantile_at(points, p) for p, _ in points] == pytest.approx([t for _, t in points])
    grid = [quantile_at(points, index / 50) for index in range(50)]
    assert grid == sorted(grid)


def test_a_tail_has_no_end() -> None:
    """The quantile at 1 is infinite where lengths fall off for ever, else the last one."""
    assert quantile_at(SHAREGPT, 1.0) == math.inf
    assert quantile_at([(0.25, 100.0), (1.0, 400.0)], 1.0) == 400.0
