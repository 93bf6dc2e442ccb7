"""An engine's state as Vidur's scheduler counts it: whole prompts reserved and nothing shared."""

from __future__ import annotations

import numpy as np

from predictor.overlay import Population
from predictor.simulator.kernel.layout import (
    ASYNC,
    BLOCK_SIZE,
    COMPUTED,
    PREFIX_CACHING,
    PROMPT,
    REMAINING,
    SHARED_BLOCKS,
    TOKENS,
    EngineArrays,
)
from predictor.simulator.kernel.load import Loaded


def as_vidur(loaded: Loaded, population: Population) -> Loaded:
    """The state for ``sarathi.play``, of what ``load_population`` has loaded from ``population``.

    Of the engine's blocks those are free that Vidur has not given out; it may want more than the
    engine has. A sequence that has ended without its engine knowing it is left out.
    """
    engine = loaded.engine
    limits, rows = engine.limits.copy(), engine.rows
    limits[ASYNC] = limits[PREFIX_CACHING] = 0
    is_kept = rows[:, REMAINING] > 0
    num_running = int(is_kept[: engine.num_running].sum())
    rows = np.ascontiguousarray(rows[is_kept])
    rows[:, SHARED_BLOCKS] = 0
    tokens = rows[:, TOKENS]
    rows[:, COMPUTED] = np.minimum(rows[:, COMPUTED], tokens - 1)
    is_decoding = (tokens > rows[:, PROMPT]) & (rows[:, COMPUTED] == tokens - 1)
    reserved = (tokens - is_decoding + limits[BLOCK_SIZE] - 1) // limits[BLOCK_SIZE]
    held = population.num_free_blocks + sum(seq.num_blocks for seq in population.running)
    num_free = max(0, held - int(reserved[:num_running].sum()))
    return Loaded(
        EngineArrays(limits, rows, num_running, num_free), loaded.in_flight, loaded.rows_of[is_kept]
    )
