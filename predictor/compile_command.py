"""``python -m predictor compile``: fills numba's cache, so that sidecars start within seconds.

numba keeps compiled code next to the sources or, where that folder cannot be written, in the user's
cache folder (``~/.cache/numba``); ``NUMBA_CACHE_DIR`` names another. Each user and each processor
type needs its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import get_args

from predictor.backends.fast import FastBackend
from predictor.settings import Rules
from predictor.step_time.fitted import FEATURES, FittedStepTime
from wire.snapshot import EngineLimits

LIMITS = EngineLimits(
    max_num_seqs=8,
    max_num_batched_tokens=512,
    max_model_len=2048,
    block_size=16,
    num_gpu_blocks=1000,
)
"""Of no matter which engine: the code is the same for all."""


def main(arguments: list[str]) -> int:
    """Compile the what-if with each set of rules."""
    argparse.ArgumentParser(prog="python -m predictor compile", description=__doc__).parse_args(
        arguments
    )
    step_time = FittedStepTime(knot=0, coefficients=(1e-3,) * len(FEATURES))
    for rules in get_args(Rules):
        print(f"compiling the what-if with {rules}'s rules ... ", end="", flush=True)
        began_s = time.perf_counter()
        FastBackend(step_time, rules).warm_up(LIMITS)
        print(f"{time.perf_counter() - began_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
