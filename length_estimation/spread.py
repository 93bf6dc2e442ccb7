"""Makes intervals honest: training ends with quantiles too close to the median, for it has seen its
examples several times. Factors that move them away from it again are found on examples it has not
seen, apart for first and later turns and for each side of the median."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from length_estimation.regressor import GROUPS, SIDES, pinball, stretched

BOUNDS = (0.5, 3.0)
FEWEST_EXAMPLES = 100
"""A group with fewer examples keeps the factors of all together."""


def fit_stretch(log_quantiles: Tensor, truth: Tensor, groups: Tensor, levels: Tensor) -> Tensor:
    """The factors with the least pinball loss: (len(GROUPS), 2).

    Args:
        log_quantiles: (questions, levels), not stretched.
        truth: (questions,), logarithms of the true numbers of tokens.
        groups: (questions,), indices of ``GROUPS``.
        levels: (levels,)
    """
    stretch = _best(log_quantiles, truth, levels).repeat(len(GROUPS), 1)
    for group in range(len(GROUPS)):
        mine = groups == group
        if int(mine.sum()) >= FEWEST_EXAMPLES:
            stretch[group] = _best(log_quantiles[mine], truth[mine], levels)
    return stretch


def _best(log_quantiles: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    found = torch.ones(len(SIDES))
    for side in range(len(SIDES)):
        loss = _loss_of(side, found, log_quantiles, truth, levels)
        found[side] = float(minimize_scalar(loss, bounds=BOUNDS, method="bounded").x)
    return found


def _loss_of(
    side: int, found: Tensor, log_quantiles: Tensor, truth: Tensor, levels: Tensor
) -> Callable[[float], float]:
    def loss(factor: float) -> float:
        tried = found.clone()
        tried[side] = factor
        rows = tried.expand(len(truth), len(SIDES))
        return float(pinball(stretched(log_quantiles, rows), truth, levels))

    return loss
