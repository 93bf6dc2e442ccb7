"""Least squares with non-negative coefficients, from the normal equations."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"

_RIDGE = 1e-10
"""Added to the scaled diagonal, so that two features that always go together can be solved for."""


def solve_nonnegative(gram: Floats, moments: Floats, start: Floats | None = None) -> Floats:
    """The x >= 0 with the least ``x' gram x - 2 moments' x``, by Lawson and Hanson's active set.

    ``start`` is a solution of a similar problem: beginning with its zeros saves most of the work.
    ``gram`` is (n, n) and positive semidefinite, the others (n,).
    """
    scale = np.sqrt(np.maximum(gram.diagonal(), 1e-300))
    scaled = gram / (scale[:, None] * scale)
    scaled.flat[:: len(scaled) + 1] += _RIDGE
    target = moments / scale
    x = np.zeros(len(target)) if start is None else np.maximum(start, 0.0) * scale
    free = x > 0
    tolerance = 1e-9 * max(1.0, float(np.abs(target).max()))
    for _ in range(3 * len(target) + 3):  # ends much sooner; the bound guards against cycling
        x = _descend(scaled, target, x, free)
        gradient = target - scaled @ x
        gradient[free] = 0.0
        worst = int(gradient.argmax())
        if gradient[worst] <= tolerance:
            break
        free[worst] = True
    solution: Floats = x / scale
    return solution


def _descend(gram: Floats, target: Floats, x: Floats, free: NDArray[np.bool_]) -> Floats:
    """The minimum over the free coordinates; those that reach zero on the way are fixed there."""
    while free.any():
        goal = np.zeros_like(x)
        goal[free] = np.linalg.solve(gram[free][:, free], target[free])
        if (goal[free] > 0).all():
            return goal
        falling = free & (goal <= 0)
        # A coordinate that has just been freed stands at zero: it may only rise.
        share = float((x[falling] / np.maximum(x[falling] - goal[falling], 1e-300)).min())
        x = np.where(free, x + share * (goal - x), 0.0)
        free[falling & (x <= 1e-12 * np.abs(x).max())] = False
        x[~free] = 0.0
    return np.zeros_like(x)
