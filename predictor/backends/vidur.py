"""The reference backend: stock Vidur 0.0.26 from PyPI, played forward from a live state.

Its Sarathi scheduler departs from vLLM's: decodes come first and ignore the token budget, whole
prompts are reserved, there is no prefix caching within the run (hits that the engine reports are
taken as computed), and priority only orders the queue. With ample KV memory batches are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from predictor.backends.base import Answer
from predictor.backends.vidur_predictor import TablePredictor, replica_config
from predictor.backends.vidur_run import VidurRun
from predictor.errors import SimulationFailed
from predictor.overlay import Population, SimulatedSequence
from predictor.step_time.gpus import Gpu
from predictor.step_time.vidur_tables import OperatorTimes, build_tables
from wire.model_config import ModelConfig
from wire.snapshot import EngineLimits


class VidurBackend:
    """Answers with whole runs. One thread at a time: Vidur numbers its objects process-wide."""

    name = "vidur"
    is_quick = False

    def __init__(self, model: ModelConfig, gpu: Gpu, times: OperatorTimes) -> None:
        """Tables are built when an engine's limits are known."""
        # Vidur sets its own logger to DEBUG and formats a line for every request's end.
        logging.getLogger("vidur").setLevel(logging.WARNING)
        self._model = model
        self._gpu = gpu
        self._times = times
        self._replica = replica_config(model)
        self._predictor: TablePredictor | None = None
        self._shape: tuple[int, ...] = ()

    def warm_up(self, limits: EngineLimits) -> None:
        """Build the tables for engines with these limits."""
        self._predictor_for(limits)

    def predict(
        self,
        population: Population,
        newcomers: Sequence[SimulatedSequence],
        *,
        cost_to_others: bool = True,
    ) -> Iterator[Answer]:
        """One run for each newcomer; for the cost one without any, which they share."""
        try:
            predictor = self._predictor_for(population.limits)
            base = VidurRun(population, predictor, self._replica) if cost_to_others else None
            for newcomer in newcomers:
                run = VidurRun(population, predictor, self._replica, newcomer)
                yield self._answer(base, run, newcomer)
        except (AssertionError, LookupError, ValueError, ArithmeticError) as error:
            # Vidur checks itself with asserts; a table without the key raises a LookupError.
            reason = f"{type(error).__name__}: {error}"
            raise SimulationFailed(f"Vidur cannot play this state: {reason}") from error

    def _answer(self, base: VidurRun | None, run: VidurRun, newcomer: SimulatedSequence) -> Answer:
        run.play_newcomer()
        ttft_s = run.newcomer.prefill_completed_at
        e2e_s = run.newcomer.completed_at
        return Answer(
            queue_s=max(0.0, run.newcomer.scheduled_at),
            ttft_s=ttft_s,
            tpot_s=(e2e_s - ttft_s) / max(1, newcomer.remaining_tokens - 1),
            e2e_s=e2e_s,
            added_delay_others_s=added_delay_s(base, run) if base else 0.0,
            num_preempted=run.num_preempted,
        )

    def _predictor_for(self, limits: EngineLimits) -> TablePredictor:
        """The tables are kept until an engine with other limits comes along."""
        shape = (
            limits.max_num_seqs,
            limits.max_num_batched_tokens,
            limits.max_model_len,
            limits.block_size,
        )
        if self._predictor is None or self._shape != shape:
            tables = build_tables(self._times, self._model, self._gpu, limits)
            self._predictor = TablePredictor(tables, self._replica)
            self._shape = shape
        return self._predictor


def added_delay_s(base: VidurRun, run: VidurRun) -> float:
    """How far the others in ``run`` lag behind ``base``, summed up, at the end of ``run``.

    An other's lag is the difference between the times at which it came to its last token so far,
    or, where that is more, how long ago it would have had the next one. ``base`` is played as far
    as this needs.
    """
    base.play_until(run.clock_s)
    lag_s = 0.0
    for other, alone in zip(run.others, base.others, strict=True):
        mine, theirs = run.progress[other.id], base.progress[alone.id]
        last = mine.tokens[-1] if mine.tokens else 0
        reached_s = theirs.try_time_of(last)
        lag = mine.times_s[-1] - reached_s if mine.tokens and reached_s is not None else 0.0
        next_s = None if other.completed else theirs.try_time_of(last + 1)
        lag_s += max(lag, run.clock_s - next_s) if next_s is not None else lag
    return max(0.0, lag_s)
