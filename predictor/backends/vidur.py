"""The reference backend: stock Vidur 0.0.26 from PyPI, played forward from a live state.

Its Sarathi scheduler departs from vLLM's: decodes come first and ignore the token budget, whole
prompts are reserved, there is no prefix caching within the run (hits that the engine reports are
taken as computed), and priority only orders the queue. With ample KV memory batches are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec

from predictor.backends.base import Answer, BacklogAnswer
from predictor.backends.vidur_predictor import TablePredictor, replica_config
from predictor.backends.vidur_run import VidurRun
from predictor.errors import SimulationFailed
from predictor.overlay import Population, SimulatedSequence
from predictor.simulator.kernel.cost import added_delays, count_broken, goals_of
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
        with _failing_clearly():
            base = self._play_out(population) if cost_to_others else None
            for newcomer in newcomers:
                run = self._run(population, [newcomer])
                run.play_newcomers()
                answer = _answers(run, [newcomer])[0]
                if base is not None:
                    run.play_out()
                    answer = replace(answer, **_cost_to_others(population, base, run))
                yield answer

    def drain(
        self,
        population: Population,
        backlog: Sequence[SimulatedSequence],
        max_num_seqs: int | None = None,
    ) -> BacklogAnswer:
        """One run with the backlog and one without."""
        with _failing_clearly():
            base = self._play_out(population)
            run = self._run(population, backlog, max_num_seqs)
            run.play_newcomers()
            answers = _answers(run, backlog)
            run.play_out()
            cost = _cost_to_others(population, base, run)
        return BacklogAnswer(
            requests=answers,
            drain_s=run.clock_s,
            added_delay_others_s=cost["added_delay_others_s"],
            num_slo_broken=cost["num_slo_broken"],
        )

    def _run(
        self,
        population: Population,
        newcomers: Sequence[SimulatedSequence],
        max_num_seqs: int | None = None,
    ) -> VidurRun:
        predictor = self._predictor_for(population.limits)
        if max_num_seqs is not None:
            # Below what runs already, Vidur would let some of that stand still.
            lower = max(len(population.running), min(max_num_seqs, population.limits.max_num_seqs))
            limits = msgspec.structs.replace(population.limits, max_num_seqs=lower)
            population = replace(population, limits=limits)
        return VidurRun(population, predictor, self._replica, newcomers)

    def _play_out(self, population: Population) -> VidurRun:
        run = self._run(population, ())
        run.play_out()
        return run

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


@contextmanager
def _failing_clearly() -> Iterator[None]:
    """Vidur checks itself with asserts; a table without the key raises a LookupError."""
    try:
        yield
    except (AssertionError, LookupError, ValueError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SimulationFailed(f"Vidur cannot play this state: {reason}") from error


def _answers(run: VidurRun, newcomers: Sequence[SimulatedSequence]) -> tuple[Answer, ...]:
    """What newcomers that have ended met; what they cost others is left at 0."""
    return tuple(
        Answer(
            queue_s=request.scheduled_at,
            ttft_s=request.prefill_completed_at,
            tpot_s=(request.completed_at - request.prefill_completed_at)
            / max(1, newcomer.remaining_tokens - 1),
            e2e_s=request.completed_at,
            added_delay_others_s=0.0,
            num_preempted=run.num_preempted,
            num_own_preemptions=request.num_restarts,
        )
        for request, newcomer in zip(run.newcomers, newcomers, strict=True)
    )


def _cost_to_others(population: Population, base: VidurRun, run: VidurRun) -> dict[str, Any]:
    """The fields of an answer that tell the cost; both runs have been played out."""
    times, alone = run.times(), base.times()
    added_s, most_s = added_delays(times, alone)
    return {
        "added_delay_others_s": added_s,
        "max_added_delay_s": most_s,
        "added_gap_s": max(0.0, run.longest_step_s - base.longest_step_s),
        "num_slo_broken": count_broken(times, alone, goals_of(population, base.rows_of), 0.0),
    }
