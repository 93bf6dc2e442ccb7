"""A simulation that starts from a snapshot goes on exactly as the engine does."""

from __future__ import annotations

import msgspec
import pytest

from predictor.simulator.live_state import from_snapshot
from predictor.simulator.replay import finish_times
from predictor.simulator.scheduler import Scheduler
from predictor.step_time.base import BatchShape
from tests.simulator.tracing import DEFAULT_LIMITS, Event, run, run_step, sequence
from wire.snapshot import SNAPSHOT_VERSION, BatchInFlight, EngineSnapshot, SequenceState


class SecondPerStep:
    """Every step takes one second."""

    def step_s(self, shape: BatchShape) -> float:
        return 1.0


def snapshot_of(scheduler: Scheduler, in_flight: list[BatchInFlight]) -> EngineSnapshot:
    """What an exporter would write."""

    def state(seq_id: str) -> SequenceState:
        seq = scheduler.sequences[seq_id]
        assert seq.status != "finished"
        hits = scheduler.kv_cache.find_computed_blocks(seq) if not seq.blocks else []
        return SequenceState(
            request_id=seq_id,
            num_prompt_tokens=seq.num_prompt_tokens,
            num_tokens=seq.num_tokens,
            num_computed_tokens=seq.num_computed_tokens,
            num_output_placeholders=seq.num_output_placeholders,
            max_tokens=seq.max_tokens,
            status=seq.status,
            num_blocks=len(seq.blocks),
            num_cached_tokens=len(hits) * scheduler.limits.block_size,
        )

    return EngineSnapshot(
        version=SNAPSHOT_VERSION,
        engine_id="unit",
        model="model",
        step=1,
        time=100.0,
        limits=scheduler.limits,
        running=[state(seq.request_id) for seq in scheduler.running],
        waiting=[state(seq.request_id) for seq in scheduler.waiting],
        num_free_blocks=scheduler.kv_cache.pool.num_free,
        in_flight=in_flight,
    )


def busy_scheduler(**changes: object) -> Scheduler:
    """Two sequences running and two waiting, with little memory."""
    scheduler = Scheduler(
        msgspec.structs.replace(DEFAULT_LIMITS, num_gpu_blocks=9, max_model_len=32, **changes)
    )
    run(scheduler, sequence("a", 6, 12), sequence("b", 9, 9), sequence("c", 14, 3), max_steps=2)
    scheduler.add(sequence("d", 20, 2))
    return scheduler


LENGTHS = {"a": 12, "b": 9, "c": 3, "d": 2}


@pytest.mark.parametrize("caching", [False, True])
def test_a_restored_scheduler_makes_the_same_steps(caching: bool) -> None:
    """Batches, preemptions and ends are the same as in the original, with known lengths."""
    original = busy_scheduler(enable_prefix_caching=caching)
    restored = from_snapshot(snapshot_of(original, []), LENGTHS.__getitem__).scheduler
    expected: list[Event] = []
    actual: list[Event] = []
    for step in range(40):
        expected += run_step(original, step)
        actual += run_step(restored, step)
    assert not original.sequences
    assert any(name.startswith("preempt") for name, _ in expected)
    assert actual == expected


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_batches_in_flight_are_taken_in(async_scheduling: bool) -> None:
    """Results of batches that were in flight arrive in the restored scheduler too."""
    original = busy_scheduler(async_scheduling=async_scheduling)
    batches = [original.schedule() for _ in range(2 if async_scheduling else 1)]
    flights = [batch.in_flight(started_at=100.0) for batch in batches]
    live = from_snapshot(snapshot_of(original, flights), LENGTHS.__getitem__)
    for batch, (_, copy) in zip(batches, live.in_flight, strict=True):
        assert copy.shape() == batch.shape()
        sampled = [seq.request_id for seq in original.update(batch).sampled]
        assert [seq.request_id for seq in live.scheduler.update(copy).sampled] == sampled
    assert run_step(live.scheduler, 0) == run_step(original, 0)


def test_a_prefill_that_is_preempted_in_flight_gets_no_token() -> None:
    """Its chunk did not reach the prompt's end; all of the prompt is computed anew."""
    original = Scheduler(
        msgspec.structs.replace(
            DEFAULT_LIMITS, max_num_batched_tokens=22, num_gpu_blocks=9, async_scheduling=True
        )
    )
    original.add(sequence("a", 20, 2))
    original.add(sequence("b", 16, 1))
    batches = [original.schedule(), original.schedule()]
    assert [seq.request_id for seq in batches[1].preempted] == ["b"]
    flights = [batch.in_flight(started_at=100.0) for batch in batches]
    assert [flight.prefill_chunks for flight in flights] == [["b"], []]
    live = from_snapshot(snapshot_of(original, flights), {"a": 2, "b": 1}.__getitem__)
    for batch, (_, copy) in zip(batches, live.in_flight, strict=True):
        for scheduler, own in ((original, batch), (live.scheduler, copy)):
            scheduler.update(own)
    expected = [("b 16", 0.0), ("stop b", 1.0)]
    assert run_step(live.scheduler, 0) == run_step(original, 0) == expected


def test_shared_blocks_are_shared_after_restoring() -> None:
    """The free count is the snapshot's, though running sequences hold more blocks than are used."""
    original = Scheduler(msgspec.structs.replace(DEFAULT_LIMITS, enable_prefix_caching=True))
    for name in ("a", "b", "c"):
        run(original, sequence(name, 9, 30, block_hashes=(b"1", b"2")), max_steps=1)
    snapshot = snapshot_of(original, [])
    assert sum(state.num_blocks for state in snapshot.running) > 64 - snapshot.num_free_blocks
    restored = from_snapshot(snapshot).scheduler
    assert restored.kv_cache.pool.num_free == snapshot.num_free_blocks
    for name in ("a", "b", "c"):
        restored.abort(name)
    assert restored.kv_cache.pool.num_free == 64


def test_waiting_sequences_keep_their_prefix_hits() -> None:
    """A waiting sequence that hits the cache in the engine hits it in the simulation."""
    original = Scheduler(msgspec.structs.replace(DEFAULT_LIMITS, enable_prefix_caching=True))
    run(original, sequence("a", 12, block_hashes=(b"1", b"2", b"3")))
    original.add(sequence("b", 12, block_hashes=(b"1", b"2", b"4")))
    restored = from_snapshot(snapshot_of(original, [])).scheduler
    assert run_step(restored, 0)[0] == ("b 4", 0)


def test_replay_tells_when_a_request_would_have_ended() -> None:
    """The newcomer waits for the step in flight and for room, then takes a step for each token."""
    scheduler = Scheduler(msgspec.structs.replace(DEFAULT_LIMITS, max_num_seqs=1))
    scheduler.add(sequence("a", 4, 3))
    batch = scheduler.schedule()
    flight = batch.in_flight(started_at=99.5)
    newcomer = SequenceState(request_id="new", num_prompt_tokens=20, num_tokens=20, max_tokens=50)
    times = finish_times(
        snapshot_of(scheduler, [flight]), {"a": 3, "new": 4}, newcomer, SecondPerStep(), now=100.0
    )
    assert times is not None
    # The batch in flight ends at 0.5; "a" has two more steps; the prompt takes two, then 3 decodes.
    assert (times.queue_s, times.ttft_s, times.e2e_s, times.preemptions) == (2.5, 4.5, 7.5, 0)


def test_replay_of_an_impossible_request_is_none() -> None:
    """A prompt that the KV cache cannot hold is never admitted."""
    scheduler = Scheduler(msgspec.structs.replace(DEFAULT_LIMITS, num_gpu_blocks=2))
    newcomer = SequenceState(request_id="new", num_prompt_tokens=20, num_tokens=20, max_tokens=5)
    snapshot = snapshot_of(scheduler, [])
    assert finish_times(snapshot, {}, newcomer, SecondPerStep(), now=100.0) is None
