"""How long a step took, by what the engine was doing."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from predictor.vllm_plugin.steps import StepTracker
from wire.snapshot import StepRecord


class Engine:
    """Plays a scheduler's calls at chosen times."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.requests = {
            "p": SimpleNamespace(num_computed_tokens=100, num_tokens=300),
            "d": SimpleNamespace(num_computed_tokens=51, num_tokens=51),
        }
        self.tracker = StepTracker(lambda: self.now_s, lambda: 1000.0 + self.now_s)

    def schedule(self, at_s: float, **tokens: int) -> SimpleNamespace:
        self.now_s = at_s
        output = SimpleNamespace(num_scheduled_tokens=tokens, preempted_req_ids=None)
        self.tracker.scheduled(self, output, at_s)
        return output

    @property
    def durations(self) -> list[tuple[float, float]]:
        """(start, duration) of each finished step."""
        records = [
            msgspec.msgpack.decode(raw, type=StepRecord) for raw in self.tracker.recent_steps
        ]
        return [(record.started_at - 1000.0, record.duration_s) for record in records]


def test_steps_of_a_busy_engine_add_up_to_the_time_that_passed() -> None:
    """The gap between two steps belongs to the second; idleness belongs to none."""
    engine = Engine()
    first = engine.schedule(1.0, d=1)
    engine.tracker.results_back(first, 3.0, has_more_work=True)
    second = engine.schedule(3.5, d=1)
    engine.tracker.results_back(second, 5.0, has_more_work=False)
    third = engine.schedule(9.0, d=1)
    engine.tracker.results_back(third, 10.0, has_more_work=False)
    assert engine.durations == [(1.0, 2.0), (3.0, 2.0), (9.0, 1.0)]


def test_a_batch_queued_behind_another_starts_when_that_ends() -> None:
    """With async scheduling two batches are in flight, and their durations do not overlap."""
    engine = Engine()
    first = engine.schedule(1.0, d=1)
    second = engine.schedule(1.5, d=1)
    assert [batch.started_at for batch in engine.tracker.in_flight] == [1001.0, 1001.5]
    engine.tracker.results_back(first, 3.0, has_more_work=True)
    engine.tracker.results_back(second, 4.0, has_more_work=False)
    assert engine.durations == [(1.0, 2.0), (3.0, 1.0)]
    assert engine.tracker.in_flight == []


def test_a_batch_tells_who_gets_no_token_from_it() -> None:
    """A chunk that ends before the prompt does; what vLLM knows of it later may be forgotten."""
    engine = Engine()
    engine.schedule(1.0, d=1, p=40)
    engine.requests["p"].num_computed_tokens = 0  # preempted
    assert [batch.prefill_chunks for batch in engine.tracker.in_flight] == [["p"]]


def test_an_empty_batch_is_no_step() -> None:
    """A batch that only tells the workers of finished requests is not recorded."""
    engine = Engine()
    output = engine.schedule(1.0)
    assert engine.tracker.in_flight == []
    engine.tracker.results_back(output, 2.0, has_more_work=False)
    assert engine.durations == []


def test_the_shape_of_a_mixed_batch() -> None:
    """One decode over 50 tokens of context and a chunk of 40 tokens after 60."""
    engine = Engine()
    engine.tracker.results_back(engine.schedule(0.0, d=1, p=40), 1.0, has_more_work=False)
    record = msgspec.msgpack.decode(engine.tracker.recent_steps[0], type=StepRecord)
    assert (record.num_decode_seqs, record.num_decode_tokens) == (1, 1)
    assert (record.num_prefill_seqs, record.num_prefill_tokens) == (1, 40)
    assert record.num_kv_tokens == 50 + 60
    assert record.prefill_attention == 40 * (100 - 40 / 2)
