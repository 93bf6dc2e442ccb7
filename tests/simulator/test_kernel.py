"""The compiled kernel keeps the reference's rules, whether it jumps or steps."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from predictor.backends.fast import FastBackend
from predictor.overlay import Population, SimulatedSequence, newcomer
from predictor.simulator.batch import Batch
from predictor.simulator.kernel.load import load_population
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from tests.simulator.kernel_runs import (
    Played,
    SumsStepTime,
    play_kernel,
    play_reference,
    population_of,
)
from tests.simulator.test_invariants import Request, limits, requests, to_sequence
from tests.simulator.tracing import DEFAULT_LIMITS, sequence
from wire.prediction import Slo
from wire.snapshot import EngineLimits

ROOMY = msgspec.structs.replace(
    DEFAULT_LIMITS, max_model_len=4096, max_num_batched_tokens=64, num_gpu_blocks=4096
)


def stranger(index: int, request: Request) -> Sequence:
    """A sequence whose prompt no other one shares, and that comes at a moment of its own."""
    seq = to_sequence(index, request)
    seq.block_hashes = ()
    seq.arrival_time = float(index)
    return seq


def check_same(kernel: Played, jumping: Played, reference: Played) -> None:
    """The same batches in the same order, and the same ends for all that end from now on."""
    assert kernel.batches == reference.batches
    for played in (kernel, jumping):
        for name, end_s in played.ends_s.items():
            if end_s >= 0:
                assert end_s == pytest.approx(reference.ends_s[name], rel=1e-9)
        assert played.num_preempted == reference.num_preempted
        assert played.num_free_blocks == reference.num_free_blocks


def check_in_flight(population: Population, in_flight: list[Batch]) -> None:
    """The kernel times each batch with its chunks' contexts, but for one that is forgotten."""
    for (_, chunks), batch in zip(load_population(population).in_flight, in_flight, strict=True):
        assert chunks == [
            (chunk.num_tokens, chunk.context if chunk.samples or chunk.seq.blocks else 0)
            for chunk in batch.chunks
            if chunk.seq.status != "finished"
        ]


EVICTED_BEFORE_A_PREEMPTION = msgspec.structs.replace(
    DEFAULT_LIMITS,
    max_num_seqs=3,
    max_num_batched_tokens=6,
    max_model_len=40,
    num_gpu_blocks=13,
    long_prefill_token_threshold=3,
    enable_prefix_caching=True,
)
"""In one step the first request takes a block that one preempted before had cached, and then the
second finds none; what that one leaves comes too late to be taken instead."""


@settings(max_examples=150)
@given(limits, requests)
@example(
    given_limits=EVICTED_BEFORE_A_PREEMPTION,
    wanted=[
        (19, 5, 5, 0, 0, 0, None),
        (25, 9, 9, 0, 0, 0, None),
        (17, 1, 1, 0, 0, 0, None),
        (1, 5, 5, 0, 0, 0, None),
    ],
)
def test_kernel_equals_the_reference_on_an_empty_engine(
    given_limits: EngineLimits, wanted: list[Request]
) -> None:
    """Preemption, chunks, thresholds, priorities and async scheduling included.

    Prefix caching too, where results are known at once: what of a block in flight is cached when
    its sequence is preempted is not counted to the token.
    """
    if given_limits.async_scheduling:
        given_limits = msgspec.structs.replace(given_limits, enable_prefix_caching=False)
    scheduler = Scheduler(given_limits)
    for index, request in enumerate(wanted):
        scheduler.add(stranger(index, request))
    population = population_of(scheduler)
    check_same(
        play_kernel(population, step_by_step=True),
        play_kernel(population, step_by_step=False),
        play_reference(scheduler),
    )


PREEMPTED_IN_FLIGHT = msgspec.structs.replace(
    DEFAULT_LIMITS,
    max_num_seqs=3,
    max_num_batched_tokens=22,
    max_model_len=40,
    num_gpu_blocks=10,
    async_scheduling=True,
)
"""The second step preempts the last request while one token of its prompt is in flight."""


@settings(max_examples=150)
@given(limits, requests, st.integers(1, 30))
@example(
    given_limits=PREEMPTED_IN_FLIGHT,
    wanted=[
        (1, 1, 1, 0, 0, 0, None),
        (20, 1, 2, 0, 0, 0, None),
        (13, 1, 1, 0, 0, 0, None),
    ],
    num_steps=2,
)
def test_kernel_equals_the_reference_from_the_middle_of_its_life(
    given_limits: EngineLimits, wanted: list[Request], num_steps: int
) -> None:
    """From running, half-prefilled, preempted and waiting sequences, with batches in flight."""
    scheduler = Scheduler(msgspec.structs.replace(given_limits, enable_prefix_caching=False))
    for index, request in enumerate(wanted):
        scheduler.add(stranger(index, request))
    in_flight = _run_into_the_middle(scheduler, num_steps)
    population = population_of(scheduler, in_flight)
    check_in_flight(population, in_flight)
    check_same(
        play_kernel(population, step_by_step=True),
        play_kernel(population, step_by_step=False),
        play_reference(scheduler, in_flight),
    )


def _run_into_the_middle(scheduler: Scheduler, num_steps: int) -> list[Batch]:
    depth = 2 if scheduler.limits.async_scheduling else 1
    in_flight: list[Batch] = []
    for _ in range(num_steps):
        batch = scheduler.schedule()
        if not batch.chunks:  # an engine then waits for what is in flight
            for earlier in in_flight:
                scheduler.update(earlier)
            return []
        in_flight.append(batch)
        if len(in_flight) > depth - 1 and num_steps % 2:
            scheduler.update(in_flight.pop(0))
        elif len(in_flight) == depth:
            break
    return in_flight


def idle(given_limits: EngineLimits = ROOMY) -> Population:
    """An engine with nothing to do."""
    return Population(0.0, given_limits, given_limits.num_gpu_blocks, (), ())


def busy(count: int = 3) -> Population:
    """An engine with some decodes and one request that waits."""
    running = tuple(
        SimulatedSequence(f"r{i}", 50, 60 + i, 59 + i, 40 + 7 * i, num_blocks=-(-(59 + i) // 4))
        for i in range(count)
    )
    used = sum(seq.num_blocks for seq in running)
    waiting = (SimulatedSequence("w", 100, 100, 0, 20),)
    return Population(0.0, ROOMY, ROOMY.num_gpu_blocks - used, running, waiting)


@settings(max_examples=60)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 500))
def test_a_longer_prompt_never_ends_earlier_on_an_idle_unit(
    prompt: int, other: int, output: int
) -> None:
    """Nor has it its first token earlier; and time never runs backwards."""
    backend = FastBackend(SumsStepTime())
    short, long = (
        next(backend.predict(idle(), [newcomer("n", size, output, ROOMY)]))
        for size in sorted((prompt, other))
    )
    assert short.ttft_s <= long.ttft_s
    assert short.e2e_s <= long.e2e_s
    for answer in (short, long):
        assert 0 <= answer.queue_s <= answer.ttft_s <= answer.e2e_s


def test_one_run_times_every_length() -> None:
    """The quantiles of the answer are those of runs with each length alone."""
    backend = FastBackend(SumsStepTime())
    points = {"0.5": 40.0, "0.9": 200.0}
    spread = newcomer("n", 30, None, ROOMY, quantiles=points)
    answer = next(backend.predict(busy(), [spread]))
    for quantile, tokens in ((answer.e2e_p50_s, 40), (answer.e2e_p90_s, 200)):
        single = newcomer("n", 30, tokens, ROOMY)
        assert quantile == pytest.approx(next(backend.predict(busy(), [single])).e2e_s)
    assert answer.e2e_p50_s is not None
    assert answer.e2e_p90_s is not None
    assert answer.e2e_p50_s < answer.e2e_s < answer.e2e_p90_s


def test_cost_to_others_is_the_difference_between_two_runs() -> None:
    """Sum and maximum of how much later the others end, by the reference."""

    def ends(with_newcomer: bool) -> dict[str, float]:
        scheduler = Scheduler(ROOMY)
        for index in range(3):
            scheduler.add(sequence(f"o{index}", 20, 30 + index))
        if with_newcomer:
            scheduler.add(sequence("n", 60, 25))
        return play_reference(scheduler).ends_s

    scheduler = Scheduler(ROOMY)
    for index in range(3):
        scheduler.add(sequence(f"o{index}", 20, 30 + index))
    question = newcomer("n", 60, 25, ROOMY)
    answer = next(FastBackend(SumsStepTime()).predict(population_of(scheduler), [question]))
    alone, together = ends(False), ends(True)
    delays = [together[name] - end_s for name, end_s in alone.items()]
    assert answer.added_delay_others_s == pytest.approx(sum(delays))
    assert answer.max_added_delay_s == pytest.approx(max(delays))
    assert answer.added_gap_s > 0
    assert answer.e2e_s == pytest.approx(together["n"])


def test_goals_that_a_newcomer_breaks_are_counted() -> None:
    """A waiting request that barely meets its goal misses it behind a long prefill ahead of it."""
    urgent = msgspec.structs.replace(ROOMY, scheduling_policy="priority")
    waiting = SimulatedSequence("w", 100, 100, 0, 20, priority=1, slo=Slo(ttft_ms=60.0))
    population = Population(0.0, urgent, urgent.num_gpu_blocks, (), (waiting,))
    backend = FastBackend(SumsStepTime())
    ahead, behind = newcomer("a", 600, 5, urgent), newcomer("b", 600, 5, urgent, priority=2)
    answers = list(backend.predict(population, [ahead, behind]))
    assert [answer.num_slo_broken for answer in answers] == [1, 0]


def test_a_backlog_drains_as_the_reference_says() -> None:
    """All of it joins at once; the drain ends with the last sequence."""
    scheduler = Scheduler(ROOMY)
    scheduler.add(sequence("o", 20, 30))
    population = population_of(scheduler)
    backlog = [newcomer(f"n{index}", 50 + index, 20, ROOMY) for index in range(6)]
    drained = FastBackend(SumsStepTime()).drain(population, backlog)
    for index in range(6):
        scheduler.add(sequence(f"n{index}", 50 + index, 20))
    ends_s = play_reference(scheduler).ends_s
    assert drained.drain_s == pytest.approx(max(ends_s.values()))
    answers = [answer.e2e_s for answer in drained.requests]
    assert answers == pytest.approx([ends_s[f"n{index}"] for index in range(6)])


def test_a_backlog_may_be_given_a_few_at_a_time() -> None:
    """As by an engine that runs no more."""
    population = population_of(Scheduler(ROOMY))
    few = msgspec.structs.replace(ROOMY, max_num_seqs=2)
    scheduler = Scheduler(few)
    backlog = [newcomer(f"n{index}", 50 + index, 20, ROOMY) for index in range(6)]
    for index in range(6):
        scheduler.add(sequence(f"n{index}", 50 + index, 20))
    ends_s = play_reference(scheduler).ends_s
    backend = FastBackend(SumsStepTime())
    drained = backend.drain(population, backlog, max_num_seqs=2)
    assert [answer.e2e_s for answer in drained.requests] == pytest.approx(list(ends_s.values()))
    assert backend.drain(population, backlog).drain_s < drained.drain_s
