"""A simulation that starts from the exported state of a live engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from predictor.simulator.batch import Batch, Chunk
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from wire.snapshot import BatchInFlight, EngineSnapshot, SequenceState

UNLIMITED = 2**31


@dataclass(frozen=True, slots=True)
class LiveState:
    """A scheduler in the engine's state, and the batches whose results are still to come."""

    scheduler: Scheduler
    in_flight: list[tuple[float, Batch]]
    """(UNIX seconds when it started, batch), oldest first."""


def from_snapshot(
    snapshot: EngineSnapshot, output_length: Callable[[str], int] = lambda _: UNLIMITED
) -> LiveState:
    """Rebuild a scheduler; ``output_length`` tells how many tokens a request will produce in all.

    A snapshot has counts of blocks, not their contents. Blocks that running sequences share are
    shared here too, and the prefix-cache hits of waiting sequences are laid into free blocks; what
    else the prefix cache holds is unknown and left out, as is the end of a very long queue.
    """
    scheduler = Scheduler(snapshot.limits)
    states = {state.request_id: state for state in (*snapshot.running, *snapshot.waiting)}
    for state in snapshot.running:
        seq = to_sequence(state, output_length(state.request_id))
        scheduler.sequences[seq.request_id] = seq
        scheduler.running.append(seq)
    for state in snapshot.waiting:
        scheduler.add(to_sequence(state, output_length(state.request_id)))
    _hand_out_blocks(scheduler, snapshot)
    for seq in scheduler.waiting:
        lay_into_cache(scheduler, seq, states[seq.request_id].num_cached_tokens)
    return LiveState(scheduler, _batches_in_flight(scheduler, snapshot.in_flight))


def to_sequence(state: SequenceState, output_length: int) -> Sequence:
    """The simulator's sequence for one of a snapshot."""
    return Sequence(
        request_id=state.request_id,
        num_prompt_tokens=state.num_prompt_tokens,
        max_tokens=state.max_tokens,
        # A live sequence has not ended, whatever was expected of it.
        output_length=max(output_length, state.num_tokens - state.num_prompt_tokens + 1),
        priority=state.priority,
        arrival_time=state.arrival_time,
        status=state.status,
        num_output_tokens=state.num_tokens - state.num_prompt_tokens,
        num_computed_tokens=state.num_computed_tokens,
        num_output_placeholders=state.num_output_placeholders,
        num_preemptions=state.num_preemptions,
    )


def lay_into_cache(scheduler: Scheduler, seq: Sequence, num_cached_tokens: int) -> None:
    """Let ``seq`` find its first tokens in the prefix cache, as far as free blocks go."""
    kv_cache = scheduler.kv_cache
    if not kv_cache.enable_caching:
        return
    count = num_cached_tokens // kv_cache.block_size
    for index, block in enumerate(kv_cache.pool.last_free(count)):
        kv_cache.pool.cache(block, seq.block_hash(index))


def _hand_out_blocks(scheduler: Scheduler, snapshot: EngineSnapshot) -> None:
    """Give running sequences as many blocks as they hold, so that the free count comes out right.

    What they hold beyond the used blocks is prefixes in common: later sequences get those from the
    first one that has enough.
    """
    pool = scheduler.kv_cache.pool
    used = snapshot.limits.num_gpu_blocks - snapshot.num_free_blocks
    shared = max(sum(state.num_blocks for state in snapshot.running) - used, 0)
    lender: list[int] = []
    shareable = _shareable_blocks(snapshot, shared)
    for seq, state, most in zip(scheduler.running, snapshot.running, shareable, strict=True):
        borrowed = lender[: min(shared, most)]
        shared -= len(borrowed)
        pool.touch(borrowed)
        seq.blocks = borrowed + pool.allocate(min(state.num_blocks - len(borrowed), pool.num_free))
        num_slots = len(seq.blocks) * snapshot.limits.block_size
        num_known = min(seq.num_computed_tokens, seq.num_tokens, num_slots)
        scheduler.kv_cache.cache_full_blocks(seq, num_known)
        lender = max(lender, seq.blocks[:most], key=len)


def _shareable_blocks(snapshot: EngineSnapshot, shared: int) -> list[int]:
    """Blocks that each running sequence may share: its prompt's full ones, if those are enough."""
    size = snapshot.limits.block_size
    of_prompts = [min(s.num_blocks, s.num_prompt_tokens // size) for s in snapshot.running]
    if sum(of_prompts) - max(of_prompts, default=0) >= shared:
        return of_prompts
    return [state.num_blocks for state in snapshot.running]


def _batches_in_flight(
    scheduler: Scheduler, in_flight: list[BatchInFlight]
) -> list[tuple[float, Batch]]:
    """The batches whose tokens the sequences already count as computed.

    Preempted ones count them no longer: a chunk that brings a token ends with their last known one;
    where any other began is forgotten.
    """
    ends = {seq.request_id: seq.num_computed_tokens for seq in scheduler.sequences.values()}
    batches = []
    for flight in reversed(in_flight):
        chunks = []
        for request_id, count in flight.num_scheduled_tokens.items():
            seq = scheduler.sequences.get(request_id)
            if seq is None:
                continue
            seq.num_in_flight_tokens += count
            if seq.status == "preempted":
                seq.num_stale_tokens += count
                samples = request_id not in flight.prefill_chunks
                context = max(0, seq.num_tokens - count) if samples else 0
            else:
                samples = ends[request_id] >= seq.num_tokens
                context = ends[request_id] = ends[request_id] - count
            chunks.append(Chunk(seq, count, context, samples))
        batches.append((flight.started_at, Batch(chunks)))
    return batches[::-1]
