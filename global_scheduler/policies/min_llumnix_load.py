"""Llumnix-: the dispatch heuristic of Llumnix (Sun et al., OSDI 2024), without migration."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from global_scheduler.policies.missing import choose_least
from wire.prediction import Prediction


def llumnix_load(prediction: Prediction) -> float:
    """The negative of Llumnix's freeness.

    Llumnix ranks instances by freeness, ``(total - used - wanted) / batch size``: how many more
    steps a batch can run before memory is gone.
    """
    free = prediction.kv_blocks_free - prediction.kv_blocks_wanted
    return -free / max(1, prediction.num_running + prediction.num_waiting)


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit of greatest freeness."""
    lowest = min((llumnix_load(c.prediction) for c in candidates if c.prediction), default=0.0)
    # Shifted to be positive: an imputed cost scales with load, which a negative base would invert.
    return choose_least(request, candidates, turn, rng, lambda p: llumnix_load(p) - lowest + 1.0)
