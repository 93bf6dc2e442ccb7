"""Whether a process's memory grows: the slope of its samples and how sure it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NUM_BLOCKS = 30
"""Samples follow one another too closely to be independent; means of blocks are less so."""
TWO_SIDED_95 = 2.05
"""Student's t for 28 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A slope with its 95 % confidence interval, in MB an hour."""

    slope_mb_per_h: float
    low_mb_per_h: float
    high_mb_per_h: float


def try_growth(times_s: Sequence[float], rss_mb: Sequence[float]) -> Growth | None:
    """Of the second half of the samples, by least squares over the means of 30 blocks.

    None when there are fewer than that.
    """
    half = len(times_s) // 2
    if len(times_s) - half < NUM_BLOCKS:
        return None
    hours, sizes = _block_means(times_s[half:]) / 3600, _block_means(rss_mb[half:])
    centred = hours - hours.mean()
    slope = float((centred * sizes).sum() / (centred**2).sum())
    residuals = sizes - sizes.mean() - slope * centred
    variance = float((residuals**2).sum()) / (NUM_BLOCKS - 2) / float((centred**2).sum())
    reach = TWO_SIDED_95 * variance**0.5
    return Growth(slope, slope - reach, slope + reach)


def _block_means(values: Sequence[float]) -> FloatArray:
    blocks = np.array_split(np.array(values), NUM_BLOCKS)
    means: FloatArray = np.array([block.mean() for block in blocks])
    return means
