"""Runs a scheduler and writes down what happens in each step."""

from __future__ import annotations

from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from wire.snapshot import EngineLimits

Event = tuple[str, float]

DEFAULT_LIMITS = EngineLimits(
    max_num_seqs=4,
    max_num_batched_tokens=16,
    max_model_len=64,
    block_size=4,
    num_gpu_blocks=64,
)


def sequence(
    request_id: str,
    num_prompt_tokens: int,
    output_length: int = 1,
    *,
    max_tokens: int = 1000,
    priority: int = 0,
    arrival_time: float = 0.0,
    block_hashes: tuple[bytes, ...] = (),
) -> Sequence:
    """A new sequence."""
    return Sequence(
        request_id=request_id,
        num_prompt_tokens=num_prompt_tokens,
        max_tokens=max_tokens,
        output_length=output_length,
        priority=priority,
        arrival_time=arrival_time,
        block_hashes=block_hashes,
    )


def run_step(scheduler: Scheduler, time: float) -> list[Event]:
    """One step that takes one second: what it computes at its start, who ends at its end."""
    batch = scheduler.schedule()
    events = [(f"preempt {seq.request_id}", time) for seq in batch.preempted]
    events += [(f"{id} {count}", time) for id, count in batch.num_scheduled_tokens.items()]
    result = scheduler.update(batch)
    return events + [(f"{seq.finish_reason} {seq.request_id}", time + 1) for seq in result.finished]


def run(scheduler: Scheduler, *sequences: Sequence, max_steps: int = 1000) -> list[Event]:
    """Add sequences, then step until all have ended (or for ``max_steps``)."""
    for seq in sequences:
        scheduler.add(seq)
    events: list[Event] = []
    time = 0.0
    while scheduler.sequences and time < max_steps:
        events += run_step(scheduler, time)
        time += 1
    return events
