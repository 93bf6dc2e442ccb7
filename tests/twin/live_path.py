"""What a live sidecar would answer in the place of one of the twin's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exp.twin.engines import Engines
from exp.twin.kernel import layout
from predictor.backends.base import Answer
from predictor.backends.fast import FastBackend
from predictor.overlay import Population, build_population
from predictor.questions import to_newcomer
from wire.prediction import PredictRequest, SentRequest
from wire.snapshot import SNAPSHOT_VERSION, BatchInFlight, EngineSnapshot, SequenceState


def snapshot_of(engines: Engines, unit: int) -> EngineSnapshot:
    """What vLLM's plug-in would have exported when the batch in flight started."""
    fleet, engine = engines.fleet, engines.fleet.engines[unit]
    running = [int(slot) for slot in fleet.running[unit, : engine[layout.NUM_RUNNING]]]
    waiting, slot = [], int(engine[layout.FIRST_WAITING])
    while slot != layout.NONE:
        if fleet.seqs[slot, layout.SEEN_STEP] <= engine[layout.STEP]:
            waiting.append(slot)
        slot = int(fleet.seqs[slot, layout.NEXT])
    tokens = {
        str(fleet.seqs[slot, layout.INDEX]): int(fleet.seqs[slot, layout.CHUNK])
        for slot in running
        if fleet.seqs[slot, layout.CHUNK]
    }
    started_s = float(fleet.clocks[unit, layout.STARTED_S])
    flight = BatchInFlight(started_at=started_s, num_scheduled_tokens=tokens)
    return EngineSnapshot(
        version=SNAPSHOT_VERSION,
        engine_id="twin",
        model="twin",
        step=int(engine[layout.STEP]),
        time=started_s,
        limits=engines.specs[unit].limits,
        running=[_state(fleet.seqs[slot].tolist(), is_running=True) for slot in running],
        waiting=[_state(fleet.seqs[slot].tolist(), is_running=False) for slot in waiting],
        num_free_blocks=int(engine[layout.NUM_FREE]),
        in_flight=[] if engines.is_idle(unit) else [flight],
    )


def _state(seq: list[int], *, is_running: bool) -> SequenceState:
    return SequenceState(
        request_id=str(seq[layout.INDEX]),
        num_prompt_tokens=seq[layout.PROMPT],
        num_tokens=seq[layout.TOKENS],
        num_computed_tokens=seq[layout.COMPUTED] + seq[layout.CHUNK],
        max_tokens=seq[layout.MAX_TOKENS],
        priority=seq[layout.PRIORITY],
        arrival_time=seq[layout.ARRIVAL] * 1e-6 - 1.0,  # before all that is still on its way
        status="running" if is_running else "waiting",
        num_blocks=seq[layout.NUM_BLOCKS],
        num_cached_tokens=0 if is_running else max(0, seq[layout.HIT]),
    )


def population_of(
    engines: Engines, unit: int, sent: Mapping[int, tuple[SentRequest, float]]
) -> Population:
    """By the live code; ``sent`` are requests as they were sent, and when, by index."""
    now_s = engines.now_s
    aged = []
    for request, sent_s in sent.values():
        request.sent_age_ms = (now_s - sent_s) * 1e3
        aged.append(request)
    return build_population(snapshot_of(engines, unit), aged, now_s)


def answers_of(
    backend: FastBackend,
    population: Population,
    questions: Sequence[PredictRequest],
    *,
    cost_to_others: bool,
) -> list[Answer]:
    """By the live code."""
    newcomers = [to_newcomer(question, population.limits) for question in questions]
    return list(backend.predict(population, newcomers, cost_to_others=cost_to_others))
