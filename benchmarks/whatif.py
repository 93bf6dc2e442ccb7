"""How long a what-if takes, ours and stock Vidur's: ``python -m benchmarks.whatif``.

All answer the same seeded states of one unit, a Llama-2-7B (``config/llama_config.json``, so 512
tokens a step) on an A100 with 80 GB; see ``unit_states`` for its limits and for what is tight
memory. Step times are those of the roofline; Vidur's rules read them from Vidur's tables.

The last line is a JSON list with a row for each state. ``fast_*`` is one question by vLLM's rules,
without the cost to others, asked of a state that the backend has seen; ``fast_sarathi_median_us``
is the same by Vidur's rules, and ``vidur_median_us`` by stock Vidur. ``speedup`` is
``vidur_median_us`` over ``fast_median_us``. ``fast_with_cost_*`` tells the cost to others as well,
``fast_batch16_median_us`` are 16 questions in one call, and ``fast_new_state_median_us`` is the
first question of a state. The ``preemptions`` are those that a what-if meets on average.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.unit_states import make_question, make_state
from predictor.backends.base import Backend
from predictor.backends.fast import FastBackend
from predictor.backends.vidur import VidurBackend
from predictor.overlay import Population, SimulatedSequence
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from predictor.step_time.vidur_step_time import VidurStepTime
from predictor.step_time.vidur_tables import RooflineTimes
from wire.model_config import load_model_config

MODEL = load_model_config(Path(__file__).parents[1] / "config" / "llama_config.json")
GPU = find_gpu("A100-80G")
SIZES = [(8, 0), (48, 0), (48, 16), (128, 64), (256, 256)]
NUM_ALTERNATIVES = 16


@dataclass(frozen=True)
class Effort:
    """How much is measured for each row."""

    num_states: int
    num_calls: int
    """Of the fast backend, for each state and kind of question."""
    vidur_s: float
    """Stock Vidur is asked about one state after another until this has passed, twice at least."""


FULL = Effort(num_states=20, num_calls=300, vidur_s=8.0)
QUICK = Effort(num_states=2, num_calls=20, vidur_s=0.0)


class Backends:
    """Ours by both sets of rules, and stock Vidur, for one unit."""

    def __init__(self) -> None:
        """Compiled and tabulated at the first question."""
        times = RooflineTimes(MODEL, GPU)
        self.fast = FastBackend(RooflineStepTime(MODEL, GPU))
        self.sarathi = FastBackend(VidurStepTime(times, MODEL, GPU), rules="sarathi")
        self.vidur = VidurBackend(MODEL, GPU, times)


@dataclass
class Timed:
    """Microseconds of each call, and the preemptions that each answer told of."""

    call_us: list[float] = field(default_factory=list)
    num_preempted: list[int] = field(default_factory=list)

    def ask(
        self,
        backend: Backend,
        state: Population,
        questions: Sequence[SimulatedSequence],
        *,
        with_cost: bool = False,
    ) -> None:
        """Time one call."""
        started_ns = time.perf_counter_ns()
        answers = list(backend.predict(state, questions, cost_to_others=with_cost))
        self.call_us.append((time.perf_counter_ns() - started_ns) / 1e3)
        self.num_preempted += [answer.num_preempted for answer in answers]

    def ask_first(self, backend: Backend, state: Population, question: SimulatedSequence) -> None:
        """Time the first question of a state, of a unit whose limits are known."""
        backend.warm_up(state.limits)
        gc.collect()
        gc.freeze()  # as the sidecar does when it is ready
        self.ask(backend, state, [question])

    def ask_all(
        self,
        backend: Backend,
        state: Population,
        questions: Sequence[SimulatedSequence],
        num_calls: int,
        *,
        with_cost: bool = False,
    ) -> None:
        """Time so many calls with one question each."""
        for question in itertools.islice(itertools.cycle(questions), num_calls):
            self.ask(backend, state, [question], with_cost=with_cost)

    def median_us(self) -> float:
        """Of all calls."""
        return round(statistics.median(self.call_us), 1)

    def p99_us(self) -> float:
        """Of all calls."""
        return round(statistics.quantiles(self.call_us, n=100)[98], 1)

    def preemptions(self) -> float:
        """Of an answer, on average."""
        return round(statistics.fmean(self.num_preempted), 1)


def measure(
    backends: Backends, num_running: int, num_waiting: int, memory: str, effort: Effort
) -> dict[str, Any]:
    """One row of the result."""
    rng = random.Random(f"{num_running} {num_waiting}")
    states = [
        make_state(rng, MODEL, num_running, num_waiting, is_tight=memory == "tight")
        for _ in range(effort.num_states)
    ]
    questions = [make_question(rng, states[0].limits) for _ in range(NUM_ALTERNATIVES)]
    own, costs, batches, new, sarathi = Timed(), Timed(), Timed(), Timed(), Timed()
    for state in states:
        new.ask_first(backends.fast, state, questions[0])
        own.ask_all(backends.fast, state, questions, effort.num_calls)
        # The run without a newcomer, which all questions share, is paid by the first one.
        Timed().ask(backends.fast, state, questions[:1], with_cost=True)
        costs.ask_all(backends.fast, state, questions, effort.num_calls // 4, with_cost=True)
        for _ in range(effort.num_calls // NUM_ALTERNATIVES):
            batches.ask(backends.fast, state, questions)
        Timed().ask_first(backends.sarathi, state, questions[0])
        sarathi.ask_all(backends.sarathi, state, questions, effort.num_calls)
    vidur = time_vidur(backends.vidur, states, questions, effort.vidur_s)
    return {
        "running": num_running,
        "waiting": num_waiting,
        "memory": memory,
        "fast_median_us": own.median_us(),
        "fast_p99_us": own.p99_us(),
        "vidur_median_us": vidur.median_us(),
        "speedup": round(vidur.median_us() / own.median_us()),
        "fast_sarathi_median_us": sarathi.median_us(),
        "fast_with_cost_median_us": costs.median_us(),
        "fast_with_cost_p99_us": costs.p99_us(),
        "fast_batch16_median_us": batches.median_us(),
        "fast_new_state_median_us": new.median_us(),
        "fast_preemptions": own.preemptions(),
        "vidur_preemptions": vidur.preemptions(),
    }


def time_vidur(
    backend: VidurBackend,
    states: Sequence[Population],
    questions: Sequence[SimulatedSequence],
    seconds: float,
) -> Timed:
    """Stock Vidur on the same states and questions, as many as the time allows."""
    vidur = Timed()
    backend.warm_up(states[0].limits)
    ends_at = time.monotonic() + seconds
    for question, state in itertools.product(questions, states):
        if len(vidur.call_us) >= 2 and time.monotonic() > ends_at:
            break
        vidur.ask(backend, state, [question])
    return vidur


def main() -> None:
    """Measure and print; a row as soon as it is there, then all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest and one larger state")
    args = parser.parse_args()
    effort, sizes = (QUICK, [SIZES[0], SIZES[2]]) if args.quick else (FULL, SIZES)
    backends = Backends()
    rows = []
    for (num_running, num_waiting), memory in itertools.product(sizes, ("ample", "tight")):
        rows.append(measure(backends, num_running, num_waiting, memory, effort))
        print(rows[-1], flush=True)
    print(msgspec.json.encode(rows).decode())


if __name__ == "__main__":
    main()
