"""What-ifs played by stock Vidur."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from predictor.backends.base import Answer
from predictor.backends.vidur import VidurBackend
from predictor.errors import SimulationFailed
from predictor.overlay import Population, SimulatedSequence, build_population
from predictor.step_time.gpus import find_gpu
from predictor.step_time.vidur_tables import RooflineTimes, build_tables
from tests.predictor.engines import (
    MODEL,
    NOW,
    limits,
    population,
    question,
    running,
    snapshot,
    waiting,
)
from wire.snapshot import BatchInFlight

GPU = find_gpu("A30")
TIMES = RooflineTimes(MODEL, GPU)
TABLES = build_tables(TIMES, MODEL, GPU, limits()).operators


@pytest.fixture(scope="module")
def backend() -> VidurBackend:
    """A backend that has built its tables."""
    made = VidurBackend(MODEL, GPU, TIMES)
    made.warm_up(limits())
    return made


def ask(backend: VidurBackend, state: Population, asked: SimulatedSequence) -> Answer:
    """The answer to one question."""
    return next(backend.predict(state, [asked]))


def step_s(prefill: tuple[int, int] | None = None, decodes: Sequence[int] = ()) -> float:
    """A step by Vidur's own formula: one prefill chunk (key) and the contexts of decodes."""
    tokens = (prefill[1] if prefill else 0) + len(decodes)
    key = (-(-tokens // 8) * 8,)
    layer_ms = sum(
        table[key]
        for name, table in TABLES.items()
        if name not in ("attn_kv_cache_save", "attn_decode", "attn_prefill")
    )
    if prefill:
        layer_ms += TABLES["attn_prefill"][(-(-prefill[0] // 16) * 16, -(-prefill[1] // 32) * 32)]
    if decodes:
        mean = sum(decodes) // len(decodes)
        layer_ms += TABLES["attn_decode"][(len(decodes), -(-mean // 16) * 16)]
    return layer_ms * MODEL.num_layers / 1e3


def test_on_an_idle_engine_the_first_token_takes_one_prefill(backend: VidurBackend) -> None:
    """And each further one a decode step."""
    answer = ask(backend, population(), question(prompt=100, output=3))
    ttft_s = step_s(prefill=(100, 100))
    assert answer.queue_s == 0
    assert answer.ttft_s == pytest.approx(ttft_s)
    decodes_s = step_s(decodes=[102]) + step_s(decodes=[103])
    assert answer.e2e_s == pytest.approx(ttft_s + decodes_s)
    assert answer.tpot_s == pytest.approx(decodes_s / 2)
    assert (answer.added_delay_others_s, answer.num_preempted) == (0, 0)


def test_a_long_prompt_is_prefilled_in_chunks(backend: VidurBackend) -> None:
    """Of the engine's token budget."""
    answer = ask(backend, population(), question(prompt=700, output=1))
    expected_s = step_s(prefill=(512, 512)) + step_s(prefill=(700, 188))
    assert answer.ttft_s == pytest.approx(expected_s)
    assert answer.e2e_s == answer.ttft_s


def test_a_full_engine_makes_the_newcomer_wait(backend: VidurBackend) -> None:
    """Until the first running sequence has ended, which is 3 tokens away."""
    state = population(
        running("a", 100, 97), running("b", 100, 97), engine_limits=limits(max_num_seqs=2)
    )
    answer = ask(backend, state, question())
    decode_s = [step_s(decodes=[context, context]) for context in (198, 199, 200)]
    # The output embedding of at most 2 sequences costs a trifle less than that of 48.
    assert answer.queue_s == pytest.approx(sum(decode_s), rel=1e-3)


def test_a_batch_in_flight_counts_from_its_start(backend: VidurBackend) -> None:
    """The newcomer waits for what is left of it; an overdue one ends now."""
    state = snapshot(running("a"))
    state.running[0].num_computed_tokens += 1

    def queue_s(age_s: float) -> float:
        batch = BatchInFlight(started_at=NOW - age_s, num_scheduled_tokens={"a": 1})
        state.in_flight = [batch]
        found = build_population(state, [], NOW, default_output_tokens=100)
        return ask(backend, found, question()).queue_s

    whole_s = step_s(decodes=[111])
    assert queue_s(0.0) == pytest.approx(whole_s)
    assert queue_s(0.004) == pytest.approx(whole_s - 0.004)
    assert queue_s(60.0) == 0


def test_two_batches_in_flight_run_one_after_the_other(backend: VidurBackend) -> None:
    """As async scheduling hands them to the workers; unknown sequences are passed over."""
    state = snapshot(running("a"))
    state.running[0].num_computed_tokens += 2
    state.in_flight = [
        BatchInFlight(started_at=NOW, num_scheduled_tokens={"a": 1, "aborted": 1}),
        BatchInFlight(started_at=NOW, num_scheduled_tokens={"a": 1}),
    ]
    found = build_population(state, [], NOW, default_output_tokens=100)
    expected_s = step_s(decodes=[111]) + step_s(decodes=[112])
    assert ask(backend, found, question()).queue_s == pytest.approx(expected_s)


@pytest.mark.parametrize("generated", range(1, 18))
@pytest.mark.parametrize("num_batches", [1, 2])
def test_a_decode_in_flight_may_open_a_block(
    backend: VidurBackend, generated: int, num_batches: int
) -> None:
    """Wherever in its last block the sequence is."""
    state = snapshot(running("a", generated=generated))
    state.running[0].num_computed_tokens += num_batches
    batch = BatchInFlight(started_at=NOW, num_scheduled_tokens={"a": 1})
    state.in_flight = [batch] * num_batches
    found = build_population(state, [], NOW, default_output_tokens=generated + 20)
    assert ask(backend, found, question(prompt=60)).e2e_s > 0


def test_a_prefill_in_flight_is_not_computed_again(backend: VidurBackend) -> None:
    """A chunk that the workers have ends with them, the rest of the prompt comes next."""
    prefilling = msgspec.structs.replace(
        waiting("a", prompt=700), status="running", num_computed_tokens=512
    )
    state = snapshot(prefilling)
    state.in_flight = [BatchInFlight(started_at=NOW, num_scheduled_tokens={"a": 512})]
    found = build_population(state, [], NOW)
    answer = ask(backend, found, question(prompt=100, output=1))
    assert answer.queue_s == pytest.approx(step_s(prefill=(512, 512)))


def test_the_same_question_has_the_same_answer(backend: VidurBackend) -> None:
    """Alone, repeated, and among others."""
    state = population(*(running(f"r{i}") for i in range(8)), waiting("w"))
    first = ask(backend, state, question())
    assert list(backend.predict(state, [question(), question(prompt=900), question()])) == [
        first,
        ask(backend, state, question(prompt=900)),
        first,
    ]


def test_the_others_are_delayed_by_the_newcomers_prefill(backend: VidurBackend) -> None:
    """One decoding neighbour lags by the longer steps that it shared."""
    answer = ask(backend, population(running("a")), question(prompt=400, output=2))
    shared_s = step_s(prefill=(400, 400), decodes=[111]) + step_s(decodes=[112, 402])
    alone_s = step_s(decodes=[111]) + step_s(decodes=[112])
    assert answer.added_delay_others_s == pytest.approx(shared_s - alone_s, rel=0.02)


def test_the_cost_to_others_can_be_spared(backend: VidurBackend) -> None:
    """All else is answered as before."""
    state = population(running("a"))
    full = ask(backend, state, question())
    spared = next(backend.predict(state, [question()], cost_to_others=False))
    assert spared == dataclasses.replace(
        full, added_delay_others_s=0.0, max_added_delay_s=0.0, added_gap_s=0.0
    )
    assert full.added_delay_others_s > 0


def test_a_backlog_of_one_costs_what_the_question_said(backend: VidurBackend) -> None:
    """And is worked off when the last sequence has ended."""
    state = population(running("a"), running("b"))
    answer = ask(backend, state, question(output=300))
    drained = backend.drain(state, [question(output=300)])
    assert drained.requests[0].e2e_s == drained.drain_s == answer.e2e_s
    assert drained.added_delay_others_s == answer.added_delay_others_s > answer.max_added_delay_s


def test_a_backlog_is_worked_off_in_its_order(backend: VidurBackend) -> None:
    """Each request waits for those before it where one at a time runs."""
    state = population(engine_limits=limits(max_num_seqs=1))
    first, second = backend.drain(state, [question(), question(output=5)]).requests
    assert second.queue_s == first.e2e_s > first.queue_s == 0


@pytest.mark.parametrize("num_running", [1, 8, 40])
@pytest.mark.parametrize("num_waiting", [0, 4])
def test_a_newcomer_never_speeds_the_others_up(
    backend: VidurBackend, num_running: int, num_waiting: int
) -> None:
    """And costs more among more."""
    sequences = [running(f"r{i}", 60 + i) for i in range(num_running)]
    sequences += [waiting(f"w{i}", 300) for i in range(num_waiting)]
    answer = ask(backend, population(*sequences), question())
    assert answer.added_delay_others_s > 0


def test_a_longer_prompt_never_ends_earlier_on_an_idle_engine(backend: VidurBackend) -> None:
    """Nor does a longer answer."""
    by_prompt = [ask(backend, population(), question(n, 10)).e2e_s for n in range(1, 1500, 53)]
    assert by_prompt == sorted(by_prompt)
    by_output = [ask(backend, population(), question(50, n)).e2e_s for n in range(1, 200, 17)]
    assert by_output == sorted(set(by_output))


def test_preemptions_are_survived_and_counted(backend: VidurBackend) -> None:
    """Stock Vidur's own simulator stumbles over a request that was preempted."""
    tight = limits(num_gpu_blocks=40)
    state = population(*(running(f"r{i}", 100, 10) for i in range(5)), engine_limits=tight)
    answer = ask(backend, state, question(prompt=60, output=40))
    assert answer.num_preempted > 0
    assert answer.e2e_s > ask(backend, population(), question(prompt=60, output=40)).e2e_s


def test_priority_decides_who_comes_first(backend: VidurBackend) -> None:
    """Where the engine schedules by priority."""
    bounds = limits(max_num_seqs=1, scheduling_policy="priority")
    state = population(waiting("a", priority=3), engine_limits=bounds)
    assert ask(backend, state, question(priority=1)).queue_s == 0
    assert ask(backend, state, question(priority=9)).queue_s > 0


def test_an_engine_with_other_limits_gets_its_own_tables(backend: VidurBackend) -> None:
    """A backend is not tied to the limits that it was warmed up for."""
    bounds = limits(max_num_seqs=300)
    many = population(*(running(f"r{i}", 20, 5) for i in range(200)), engine_limits=bounds)
    assert ask(backend, many, question(output=2)).e2e_s > 0


def test_a_state_that_cannot_be_played_is_a_typed_error(backend: VidurBackend) -> None:
    """And does no harm to the next question."""
    idle = population()
    before = ask(backend, idle, question())
    too_long = replace(question(), num_prompt_tokens=50_000, num_tokens=50_000)
    with pytest.raises(SimulationFailed, match="Vidur"):
        ask(backend, idle, too_long)
    assert ask(backend, idle, question()) == before
