"""What holds for every workload: blocks are conserved, everyone gets exactly its tokens."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from tests.simulator.tracing import DEFAULT_LIMITS

MAX_MODEL_LEN = 40

limits = st.builds(
    msgspec.structs.replace,
    st.just(msgspec.structs.replace(DEFAULT_LIMITS, max_model_len=MAX_MODEL_LEN)),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(4, 40),
    # Ten blocks hold one sequence of the greatest length: memory is tight.
    num_gpu_blocks=st.integers(10, 24),
    long_prefill_token_threshold=st.sampled_from([0, 3, 10]),
    enable_prefix_caching=st.booleans(),
    scheduling_policy=st.sampled_from(["fcfs", "priority"]),
    async_scheduling=st.booleans(),
)

requests = st.lists(
    st.tuples(
        st.integers(1, 30),  # prompt tokens
        st.integers(1, 20),  # output length
        st.integers(1, 20),  # max_tokens
        st.integers(0, 2),  # priority
        st.integers(0, 2),  # which prompt family: prompts of one family share their prefix
        st.integers(0, 8),  # step of arrival
        st.one_of(st.none(), st.integers(1, 12)),  # steps until it is aborted
    ),
    min_size=1,
    max_size=12,
)

Request = tuple[int, int, int, int, int, int, "int | None"]


def to_sequence(index: int, request: Request) -> Sequence:
    num_prompt, length, max_tokens, priority, family, arrival, _ = request
    hashes = tuple(f"{family}/{block}".encode() for block in range(num_prompt // 4))
    return Sequence(
        request_id=f"r{index}",
        num_prompt_tokens=num_prompt,
        max_tokens=max_tokens,
        output_length=length,
        priority=priority,
        arrival_time=float(arrival),
        block_hashes=hashes,
    )


def check_blocks(scheduler: Scheduler) -> None:
    """Every block is free or held, and as many hold it as its reference count says."""
    pool = scheduler.kv_cache.pool
    held = [block for seq in scheduler.running for block in seq.blocks]
    assert all(pool.ref_counts[block] == held.count(block) for block in range(pool.num_blocks))
    assert pool.num_free + len(set(held)) == pool.num_blocks
    assert not any(seq.blocks for seq in scheduler.waiting)


def check_batch(scheduler: Scheduler, counts: dict[str, int]) -> None:
    """The budget and the number of sequences are kept, and every token has a slot."""
    assert sum(counts.values()) <= scheduler.limits.max_num_batched_tokens
    assert len(scheduler.running) <= scheduler.limits.max_num_seqs
    for seq in scheduler.running:
        assert len(seq.blocks) * scheduler.limits.block_size >= seq.num_computed_tokens


@settings(max_examples=150)
@given(limits, requests)
def test_invariants(engine_limits: object, wanted: list[Request]) -> None:
    """Whatever arrives, is aborted or preempted: nothing leaks and every answer is complete."""
    scheduler = Scheduler(msgspec.convert(engine_limits, type(DEFAULT_LIMITS)))
    depth = 2 if scheduler.limits.async_scheduling else 1
    sequences = [to_sequence(index, request) for index, request in enumerate(wanted)]
    in_flight = []
    for step in range(2000):
        for seq, request in zip(sequences, wanted, strict=True):
            if request[5] == step:
                scheduler.add(seq)
            if request[6] is not None and request[5] + request[6] == step:
                scheduler.abort(seq.request_id)
        in_flight.append(scheduler.schedule())
        check_batch(scheduler, in_flight[-1].num_scheduled_tokens)
        check_blocks(scheduler)
        if len(in_flight) == depth:
            scheduler.update(in_flight.pop(0))
            check_blocks(scheduler)
        if step > 20 and not scheduler.sequences:
            break
    assert scheduler.kv_cache.pool.num_free == scheduler.limits.num_gpu_blocks
    for seq in sequences:
        assert seq.status == "finished"
        expected = min(seq.output_length, seq.max_tokens, MAX_MODEL_LEN - seq.num_prompt_tokens)
        if seq.finish_reason == "abort":
            assert seq.num_output_tokens < expected
        else:
            assert seq.num_output_tokens == expected
