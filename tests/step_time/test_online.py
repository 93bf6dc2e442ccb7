"""What is learnt from a running engine, and what is not to be believed."""

from __future__ import annotations

import itertools
import math
import random
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from predictor.step_time.base import BatchShape, StepTimeModel, batch_shape
from predictor.step_time.fitted import FittedStepTime
from predictor.step_time.gpus import find_gpu
from predictor.step_time.least_squares import solve_nonnegative
from predictor.step_time.online import OnlineStepTime
from predictor.step_time.roofline import RooflineStepTime
from tests.step_time.engine_steps import LLAMA, record, steps
from tests.step_time.table_formula import random_shapes
from wire.snapshot import StepRecord

ROOFLINE = RooflineStepTime(LLAMA, find_gpu("A30"))
SHAPES = random_shapes(200)[1:]
DECODES = [batch_shape([], [context] * n) for n in (1, 8, 40) for context in (50, 1500)]
PREFILLS = [batch_shape([(n, 0)], [300] * 10) for n in (16, 100, 400)]


class ShiftedEngine:
    """An engine that departs from the roofline: slower as a whole, more so in prefills."""

    def __init__(self, factor: float = 1.3, prefill_token_s: float = 5e-5) -> None:
        self.factor = factor
        self.prefill_token_s = prefill_token_s

    def step_s(self, shape: BatchShape) -> float:
        slower_s = self.prefill_token_s * shape.num_prefill_tokens
        return self.factor * ROOFLINE.step_s(shape) + slower_s

    tabulate = ROOFLINE.tabulate


def worst(learnt: StepTimeModel, truth: StepTimeModel, shapes: list[BatchShape]) -> float:
    """The largest relative error."""
    return max(abs(learnt.step_s(shape) / truth.step_s(shape) - 1) for shape in shapes)


@pytest.mark.parametrize("gpu", ["A30", "H100", "CPU"])
def test_before_any_step_it_is_the_prior(gpu: str) -> None:
    """To a few percent, for batches of any mixture."""
    prior = RooflineStepTime(LLAMA, find_gpu(gpu))
    learnt = OnlineStepTime(prior, LLAMA).model()
    errors = [abs(learnt.step_s(shape) / prior.step_s(shape) - 1) for shape in SHAPES]
    assert sum(errors) / len(errors) < 0.03
    assert max(errors) < 0.1


def test_an_engine_of_the_smallest_limits_can_be_learnt_from() -> None:
    """One sequence at a time, in chunks of one token."""
    tiny = LLAMA.model_copy(update={"max_batch_size": 1, "chunk_size": 1})
    learnt = OnlineStepTime(ROOFLINE, tiny).model()
    assert learnt.step_s(DECODES[0]) == pytest.approx(ROOFLINE.step_s(DECODES[0]), rel=0.03)


def test_it_becomes_the_engine() -> None:
    """From steps with 5 % noise, whatever prior it began with."""
    engine = ShiftedEngine()
    for gpu in ("A30", "H200", "CPU"):
        online = OnlineStepTime(RooflineStepTime(LLAMA, find_gpu(gpu)), LLAMA)
        assert online.observe(list(steps(engine, 600))) == 600
        assert worst(online.model(), engine, [*DECODES, *PREFILLS]) < 0.15


def test_each_step_counts_once() -> None:
    """Though every snapshot repeats the last 64; and an engine that starts anew is read again."""
    records = list(steps(ShiftedEngine(), 200))
    once, repeated = OnlineStepTime(ROOFLINE, LLAMA), OnlineStepTime(ROOFLINE, LLAMA)
    assert once.observe(records) == 200
    taken = [repeated.observe(records[max(0, end - 64) : end]) for end in range(8, 201, 8)]
    assert taken == [8] * 25
    assert repeated.observe(records[-64:-32]) == repeated.observe(records[-64:]) == 0
    assert repeated.model() == once.model()
    restarted = [msgspec.structs.replace(r, started_at=2e6 + r.step) for r in records[:5]]
    assert repeated.observe(restarted) == 5
    assert repeated.figures().num_steps == 205


@pytest.mark.parametrize("factor", [50.0, 0.02])
@pytest.mark.parametrize(("num_before", "most"), [(0, 0.25), (3, 0.15), (200, 0.1)])
def test_a_hiccup_does_little(factor: float, num_before: int, most: float) -> None:
    """A step of a wrong length, early or late, a decode or a prefill, moves no time far."""
    records = list(steps(ROOFLINE, num_before, seed=2))
    for shape in (DECODES[3], PREFILLS[1]):
        online = OnlineStepTime(ROOFLINE, LLAMA)
        online.observe(records)
        before = online.model()
        online.observe([record(shape, factor * ROOFLINE.step_s(shape), num_before + 1)])
        assert worst(online.model(), before, [*DECODES, *PREFILLS]) < most


def test_scattered_hiccups_do_little() -> None:
    """One step in twenty takes far too long."""
    rng = random.Random(3)
    records = [
        msgspec.structs.replace(step, duration_s=step.duration_s * rng.choice([1] * 19 + [50]))
        for step in steps(ROOFLINE, 1000, noise=0.05)
    ]
    online = OnlineStepTime(ROOFLINE, LLAMA)
    online.observe(records)
    assert worst(online.model(), ROOFLINE, [*DECODES, *PREFILLS]) < 0.15


LIES: list[dict[str, object]] = [
    {"duration_s": 0.0},
    {"duration_s": math.nan},
    {"duration_s": math.inf},
    {"duration_s": -1.0},
    {"duration_s": 1e9},
    {"num_decode_tokens": 0, "num_prefill_tokens": 0},
    {"num_decode_tokens": 10**12},
    {"num_kv_tokens": -5},
    {"prefill_attention": math.nan},
    {"prefill_attention": 1e30},
    {"num_prefill_seqs": 10**6},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_impossible_records_are_refused(lie: dict[str, object]) -> None:
    """They are counted, teach nothing, and the next true one is taken."""
    online = OnlineStepTime(ROOFLINE, LLAMA)
    before = online.model()
    true = record(PREFILLS[0], 0.05, step=1)
    assert online.observe([msgspec.structs.replace(true, **lie)]) == 0
    assert online.model() == before
    assert online.figures().num_refused == 1
    assert online.observe([true, msgspec.structs.replace(true, step=2)]) == 1


def test_any_record_leaves_a_usable_model() -> None:
    """Whatever an engine claims, times stay finite and none is negative."""
    rng = random.Random(4)
    sizes = [0, 1, 7, 5000, 10**7]

    def claim(step: int) -> StepRecord:
        return StepRecord(
            step=step, started_at=0, duration_s=10 ** rng.uniform(-6, 2.7),
            num_prefill_tokens=rng.choice(sizes), num_decode_tokens=rng.choice(sizes),
            num_prefill_seqs=rng.choice([0, 1]), num_decode_seqs=rng.choice(sizes),
            num_kv_tokens=rng.choice(sizes), prefill_attention=rng.choice([0, 50, 1e6, 1e13]),
        )  # fmt: skip

    online = OnlineStepTime(ROOFLINE, LLAMA)
    assert online.observe([claim(step) for step in range(1, 1001)]) > 200
    assert all(math.isfinite(c) and c >= 0 for c in online.model().coefficients)


def test_an_engine_that_changes_is_followed() -> None:
    """Ten times slower from one step to the next, as after a move to another machine."""
    slow = ShiftedEngine(10.0)
    online = OnlineStepTime(ROOFLINE, LLAMA)
    online.observe(list(steps(ROOFLINE, 1000)))
    online.observe(list(steps(slow, 20, first=1001)))
    assert online.figures().drift > 2
    online.observe(list(steps(slow, 80, first=1021)))
    assert worst(online.model(), slow, DECODES) < 0.1
    online.observe(list(steps(slow, 1000, first=1101)))
    assert worst(online.model(), slow, [*DECODES, *PREFILLS]) < 0.1
    assert online.figures().drift < 1.3


def test_decodes_do_not_wash_out_prefills() -> None:
    """Five thousand decode steps later, the cost of a prefill is still known."""
    engine = ShiftedEngine()
    online = OnlineStepTime(ROOFLINE, LLAMA)
    online.observe(list(steps(engine, 400)))
    online.observe(list(steps(engine, 5000, prefill_share=0.0, first=401, seed=1)))
    assert worst(online.model(), engine, PREFILLS) < 0.12


def test_figures_tell_how_good_it_is() -> None:
    """Before there are steps there is nothing to tell."""
    online = OnlineStepTime(ROOFLINE, LLAMA)
    assert math.isnan(online.figures().mape)
    online.observe(list(steps(ROOFLINE, 500, noise=0.1)))
    figures = online.figures()
    assert 0.06 < figures.mape < 0.11  # the mean of |N(0, 0.1)| is 0.08
    assert 0.9 < figures.r2 < 1
    assert 0.7 < figures.drift < 1.3


def test_a_step_is_cheap_to_learn_from() -> None:
    """Well under 100 us of one core; three times as much is allowed for a busy machine."""
    records = list(steps(ROOFLINE, 500))
    online = OnlineStepTime(ROOFLINE, LLAMA)
    started = time.process_time()
    for end in range(len(records)):
        online.observe(records[end : end + 1])
    assert (time.process_time() - started) / len(records) < 300e-6


def test_nonnegative_least_squares_is_optimal() -> None:
    """The conditions of optimality hold, also for features that always go together."""
    rng = np.random.default_rng(0)
    for size, repeat in itertools.product((1, 3, 8), (False, True)):
        rows = rng.normal(size=(40, size))
        if repeat:
            rows = np.concatenate([rows, rows[:, :1]], axis=1)
        gram, moments = rows.T @ rows, rows.T @ rng.normal(size=40)
        x = solve_nonnegative(gram, moments)
        again = solve_nonnegative(gram, moments, start=np.abs(rng.normal(size=len(x))))
        gradient = moments - gram @ x
        assert (x >= 0).all()
        assert gradient.max() < 1e-6
        assert abs(gradient @ x) < 1e-6
        assert again @ gram @ again - 2 * moments @ again == pytest.approx(
            x @ gram @ x - 2 * moments @ x, abs=1e-6
        )


def test_a_model_does_not_change_under_its_reader() -> None:
    """What ``model()`` gave stays as it was while learning goes on."""
    online = OnlineStepTime(ROOFLINE, LLAMA)
    first = online.model()
    kept = replace(first)
    online.observe(list(steps(ShiftedEngine(), 50)))
    assert isinstance(first, FittedStepTime)
    assert first == kept != online.model()
