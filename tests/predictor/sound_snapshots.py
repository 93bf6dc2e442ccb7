"""Snapshots that the reader lets pass, however odd an engine would have to be to write them."""

from __future__ import annotations

from hypothesis import strategies as st

from wire.snapshot import (
    SNAPSHOT_VERSION,
    BatchInFlight,
    EngineLimits,
    EngineSnapshot,
    SequenceState,
)

NOW = 100.0

EXTREME_LIMITS = st.builds(
    EngineLimits,
    max_num_seqs=st.sampled_from([1, 2, 8, 2**16]),
    max_num_batched_tokens=st.sampled_from([1, 2, 16, 512, 2**20]),
    max_model_len=st.sampled_from([2, 3, 50, 4096, 10**7]),
    block_size=st.sampled_from([1, 7, 16, 10**7]),
    num_gpu_blocks=st.sampled_from([1, 3, 60, 1000, 2**31]),
    long_prefill_token_threshold=st.sampled_from([0, 1, 5, 10**7]),
    enable_chunked_prefill=st.booleans(),
    enable_prefix_caching=st.booleans(),
    scheduling_policy=st.sampled_from(["fcfs", "priority"]),
    async_scheduling=st.booleans(),
)


@st.composite
def sequences(draw: st.DrawFn, limits: EngineLimits, name: str, status: str) -> SequenceState:
    """One whose numbers are possible, each by itself at an extreme."""
    num_tokens = draw(st.integers(1, limits.max_model_len - 1))
    placeholders = draw(st.sampled_from([0, 0, 1, 2, 1024]))
    return SequenceState(
        request_id=name,
        num_prompt_tokens=draw(st.integers(1, num_tokens)),
        num_tokens=num_tokens,
        num_computed_tokens=draw(st.integers(0, num_tokens + placeholders)),
        num_output_placeholders=placeholders,
        max_tokens=draw(st.sampled_from([0, 1, 100, 2**62])),
        priority=draw(st.sampled_from([0, 1, -5, 2**62])),
        arrival_time=draw(st.sampled_from([0.0, 5.0, 1e12])),
        status=status,  # type: ignore[arg-type]
        num_blocks=draw(st.integers(0, limits.num_gpu_blocks)),
        num_cached_tokens=draw(st.integers(0, num_tokens)),
    )


@st.composite
def batches(draw: st.DrawFn, limits: EngineLimits, names: list[str]) -> BatchInFlight:
    """Some of the sequences, with what the budget gives."""
    left = limits.max_num_batched_tokens
    scheduled: dict[str, int] = {}
    most = min(4, limits.max_num_seqs, len(names))
    for name in draw(st.lists(st.sampled_from(names), max_size=most, unique=True)) if most else ():
        if left > 0:
            scheduled[name] = draw(st.integers(1, left))
            left -= scheduled[name]
    started_at = draw(st.sampled_from([0.0, NOW, NOW + 60]))
    return BatchInFlight(
        started_at=started_at,
        num_scheduled_tokens=scheduled,
        prefill_chunks=[name for name in scheduled if draw(st.booleans())],
    )


@st.composite
def sound_snapshots(draw: st.DrawFn) -> EngineSnapshot:
    """A few sequences and batches of an engine with extreme limits."""
    limits = draw(EXTREME_LIMITS)
    num_running = draw(st.integers(0, min(5, limits.max_num_seqs)))
    running = [draw(sequences(limits, f"r{index}", "running")) for index in range(num_running)]
    statuses = draw(st.lists(st.sampled_from(["waiting", "preempted"]), max_size=5))
    waiting = [draw(sequences(limits, f"w{i}", status)) for i, status in enumerate(statuses)]
    names = [sequence.request_id for sequence in running + waiting]
    return EngineSnapshot(
        version=SNAPSHOT_VERSION,
        engine_id="e",
        model="m",
        step=1,
        time=NOW,
        limits=limits,
        running=running,
        waiting=waiting,
        num_waiting_left_out=draw(st.sampled_from([0, 10**18])),
        num_free_blocks=draw(st.integers(0, limits.num_gpu_blocks)),
        in_flight=draw(st.lists(batches(limits, names), max_size=3)),
    )
