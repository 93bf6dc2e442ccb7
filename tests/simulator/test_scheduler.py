"""Each rule of vLLM V1's scheduler in a small situation: what is computed when, in steps of 1 s."""

from __future__ import annotations

import msgspec
import pytest

from predictor.simulator.scheduler import Scheduler
from tests.simulator.tracing import DEFAULT_LIMITS, run, run_step, sequence


def make_scheduler(**changes: object) -> Scheduler:
    return Scheduler(msgspec.structs.replace(DEFAULT_LIMITS, **changes))


def test_prompt_and_decodes() -> None:
    """A whole prompt yields the first token; each further token takes a step."""
    assert run(make_scheduler(), sequence("a", 5, output_length=3)) == [
        ("a 5", 0),
        ("a 1", 1),
        ("a 1", 2),
        ("stop a", 3),
    ]


def test_a_long_prompt_is_computed_in_chunks() -> None:
    """A prompt beyond the token budget takes several steps and gives no token before the last."""
    assert run(make_scheduler(), sequence("a", 20)) == [("a 16", 0), ("a 4", 1), ("stop a", 2)]


def test_decodes_and_prefills_share_one_budget_in_running_order() -> None:
    """Running sequences come first, in their order; a newcomer gets what they leave."""
    scheduler = make_scheduler()
    run(scheduler, sequence("a", 4, output_length=9), max_steps=1)
    events = run(scheduler, sequence("b", 20, output_length=2), max_steps=3)
    assert events == [
        *[("a 1", 0), ("b 15", 0)],
        *[("a 1", 1), ("b 5", 1)],
        *[("a 1", 2), ("b 1", 2), ("stop b", 3)],
    ]


def test_an_unfinished_prefill_keeps_its_place_before_later_decodes() -> None:
    """The order is that of admission: an older prefill may take the budget of younger decodes."""
    scheduler = make_scheduler(max_num_batched_tokens=8, long_prefill_token_threshold=6)
    events = run(scheduler, sequence("a", 20), sequence("b", 2, output_length=3), max_steps=3)
    assert events == [
        *[("a 6", 0), ("b 2", 0)],
        *[("a 6", 1), ("b 1", 1)],
        *[("a 6", 2), ("b 1", 2), ("stop b", 3)],
    ]


def test_long_prefill_threshold_spares_a_lone_sequence() -> None:
    """The threshold caps a chunk only while somebody else is there."""
    assert run(make_scheduler(long_prefill_token_threshold=4), sequence("a", 10)) == [
        ("a 10", 0),
        ("stop a", 1),
    ]


def test_max_num_seqs_bounds_the_running() -> None:
    """A sequence waits while ``max_num_seqs`` are running, whatever budget is left."""
    scheduler = make_scheduler(max_num_seqs=1)
    assert run(scheduler, sequence("a", 2, output_length=2), sequence("b", 2)) == [
        *[("a 2", 0), ("a 1", 1), ("stop a", 2)],
        *[("b 2", 2), ("stop b", 3)],
    ]


def test_a_whole_prompt_must_fit_at_admission() -> None:
    """A prompt is admitted only when all of it would fit, and nobody overtakes it."""
    scheduler = make_scheduler(num_gpu_blocks=5, max_num_batched_tokens=6)
    events = run(
        scheduler,
        sequence("a", 6, output_length=2),
        sequence("b", 16),
        sequence("c", 1),
        max_steps=3,
    )
    assert events == [("a 6", 0), ("a 1", 1), ("stop a", 2), ("b 6", 2)]


def test_all_blocks_can_be_given_away() -> None:
    """There is no watermark: a prompt that takes the very last block is admitted."""
    scheduler = make_scheduler(num_gpu_blocks=4)
    scheduler.add(sequence("a", 16))
    assert run_step(scheduler, 0) == [("a 16", 0), ("stop a", 1)]


def test_without_chunked_prefill_a_prompt_waits_for_the_whole_budget() -> None:
    """A prompt that exceeds what is left of the budget stays in the queue."""
    scheduler = make_scheduler(enable_chunked_prefill=False)
    assert run(scheduler, sequence("a", 10), sequence("b", 8)) == [
        *[("a 10", 0), ("stop a", 1)],
        *[("b 8", 1), ("stop b", 2)],
    ]


def test_out_of_blocks_the_last_running_sequence_is_preempted() -> None:
    """It returns to the front of the queue; nobody is admitted in that step; it recomputes."""
    scheduler = make_scheduler(num_gpu_blocks=4, max_model_len=16)
    events = run(
        scheduler,
        sequence("a", 8, output_length=3),
        sequence("b", 8, output_length=2),
        sequence("c", 1),
    )
    assert events == [
        *[("a 8", 0), ("b 8", 0)],
        *[("preempt b", 1), ("a 1", 1)],
        # Its prompt and the token it had: 9 tokens, 3 blocks, while "a" holds 3 of 4.
        *[("a 1", 2), ("stop a", 3)],
        *[("b 9", 3), ("c 1", 3), ("stop b", 4), ("stop c", 4)],
    ]


def test_a_sequence_may_preempt_itself() -> None:
    """The last running sequence gives way itself when it is the one that finds no block."""
    scheduler = make_scheduler(num_gpu_blocks=4, max_model_len=16)
    events = run(scheduler, sequence("a", 6, output_length=9), sequence("b", 8), max_steps=1)
    assert events == [("a 6", 0), ("b 8", 0), ("stop b", 1)]
    scheduler = make_scheduler(num_gpu_blocks=4, max_model_len=16)
    run(
        scheduler, sequence("a", 5, output_length=3), sequence("b", 8, output_length=9), max_steps=1
    )
    assert run_step(scheduler, 1) == [("preempt b", 1), ("a 1", 1)]


def test_priority_orders_the_queue() -> None:
    """With the priority policy the smallest value is admitted first, then the earliest arrival."""
    scheduler = make_scheduler(scheduling_policy="priority", max_num_seqs=1)
    late = sequence("late", 1, arrival_time=2.0)
    early = sequence("early", 1, arrival_time=1.0)
    urgent = sequence("urgent", 1, priority=-1, arrival_time=3.0)
    events = run(scheduler, late, early, urgent)
    assert [name for name, _ in events[::2]] == ["urgent 1", "early 1", "late 1"]


def test_priority_preempts_the_least_urgent_and_returns_its_budget() -> None:
    """A less urgent sequence that already has its token in this step loses it to an urgent one."""
    scheduler = make_scheduler(
        scheduling_policy="priority", num_gpu_blocks=5, max_model_len=20, max_num_batched_tokens=32
    )
    run(scheduler, sequence("low", 9, output_length=9, priority=5), max_steps=1)
    run(scheduler, sequence("high", 8, output_length=9), max_steps=1)
    assert run_step(scheduler, 2) == [("preempt low", 2), ("high 1", 2)]
    assert [seq.request_id for seq in scheduler.waiting] == ["low"]


def test_max_tokens_and_max_model_len_end_a_sequence() -> None:
    """A sequence ends with reason length at either bound."""
    events = run(make_scheduler(), sequence("a", 2, output_length=99, max_tokens=2))
    assert events[-1] == ("length a", 2)
    events = run(make_scheduler(max_model_len=8), sequence("b", 6, output_length=99))
    assert events[-1] == ("length b", 2)


def test_prefix_cache_hits_spare_whole_blocks() -> None:
    """Blocks that an earlier prompt left in the cache are not computed again."""
    scheduler = make_scheduler(enable_prefix_caching=True)
    run(scheduler, sequence("a", 10, block_hashes=(b"1", b"2")))
    assert run(scheduler, sequence("b", 10, block_hashes=(b"1", b"2"))) == [
        ("b 2", 0),
        ("stop b", 1),
    ]
    assert run(scheduler, sequence("c", 10, block_hashes=(b"1", b"3")))[0] == ("c 6", 0)
    assert run(scheduler, sequence("d", 10, block_hashes=(b"4", b"5")))[0] == ("d 10", 0)


def test_a_fully_cached_prompt_computes_its_last_block_again() -> None:
    """At most ``num_tokens - 1`` tokens can hit: the last token's logits are needed."""
    scheduler = make_scheduler(enable_prefix_caching=True)
    run(scheduler, sequence("a", 8, block_hashes=(b"1", b"2")))
    assert run(scheduler, sequence("b", 8, block_hashes=(b"1", b"2")))[0] == ("b 4", 0)


def test_running_sequences_share_cached_blocks() -> None:
    """Two sequences with the same prefix hold its blocks together."""
    scheduler = make_scheduler(enable_prefix_caching=True)
    run(scheduler, sequence("a", 9, 9, block_hashes=(b"1", b"2")), max_steps=1)
    run(scheduler, sequence("b", 9, 9, block_hashes=(b"1", b"2")), max_steps=1)
    assert scheduler.running[0].blocks[:2] == scheduler.running[1].blocks[:2]
    assert scheduler.kv_cache.pool.num_free == 64 - 4


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    """When fresh blocks run out, the prefix that was let go of first is lost, its tail first."""
    scheduler = make_scheduler(enable_prefix_caching=True, num_gpu_blocks=6, max_model_len=24)
    run(scheduler, sequence("old", 8, block_hashes=(b"o1", b"o2")))
    run(scheduler, sequence("new", 8, block_hashes=(b"n1", b"n2")))
    run(scheduler, sequence("other", 12))
    pool = scheduler.kv_cache.pool
    cached = [name for name in (b"o1", b"o2", b"n1", b"n2") if pool.find(name) is not None]
    assert cached == [b"o1", b"n1", b"n2"]


def test_a_preempted_sequence_finds_its_own_blocks() -> None:
    """Preemption frees blocks, but what is not reused is a prefix-cache hit at the return."""
    scheduler = make_scheduler(enable_prefix_caching=True, num_gpu_blocks=4, max_model_len=16)
    events = run(scheduler, sequence("a", 8, output_length=2), sequence("b", 8, output_length=2))
    assert events == [
        *[("a 8", 0), ("b 8", 0)],
        *[("preempt b", 1), ("a 1", 1), ("stop a", 2)],
        # "a" took b's second block; the first one is still cached.
        *[("b 5", 2), ("stop b", 3)],
    ]


def test_abort_frees_blocks_at_once() -> None:
    """An aborted sequence leaves nothing behind, running or waiting."""
    scheduler = make_scheduler(max_num_seqs=1)
    run(scheduler, sequence("a", 8, 9), sequence("b", 8), max_steps=1)
    for request_id in ("a", "b"):
        aborted = scheduler.abort(request_id)
        assert aborted is not None
        assert aborted.finish_reason == "abort"
    assert scheduler.abort("a") is None
    assert (scheduler.running, list(scheduler.waiting)) == ([], [])
    assert scheduler.kv_cache.pool.num_free == 64


def test_a_sequence_aborted_in_flight_gets_no_token() -> None:
    """Results for a sequence that was aborted while its batch ran are dropped."""
    scheduler = make_scheduler()
    scheduler.add(sequence("a", 4, 9))
    batch = scheduler.schedule()
    scheduler.abort("a")
    assert scheduler.update(batch).sampled == []


def test_async_scheduling_makes_a_batch_before_the_last_one_ends() -> None:
    """The next token's step is scheduled on a placeholder, and none beyond ``max_tokens``."""
    scheduler = make_scheduler(async_scheduling=True)
    scheduler.add(sequence("a", 4, output_length=9, max_tokens=2))
    first, second = scheduler.schedule(), scheduler.schedule()
    assert (first.num_scheduled_tokens, second.num_scheduled_tokens) == ({"a": 4}, {"a": 1})
    assert scheduler.update(first).finished == []
    assert scheduler.schedule().chunks == []
    assert [seq.finish_reason for seq in scheduler.update(second).finished] == ["length"]


def test_async_scheduling_holds_a_preempted_sequence_until_its_output_is_in() -> None:
    """A sequence preempted with a batch in flight still gets that token, then may return."""
    scheduler = make_scheduler(async_scheduling=True, num_gpu_blocks=4, max_model_len=16)
    for seq in (sequence("a", 8, 2), sequence("b", 8, 4)):
        scheduler.add(seq)
    first = scheduler.schedule()
    second = scheduler.schedule()
    assert [seq.request_id for seq in second.preempted] == ["b"]
    assert scheduler.schedule().num_scheduled_tokens == {"a": 1}
    scheduler.update(first)
    assert scheduler.sequences["b"].num_output_tokens == 1


def test_bad_sequences_are_refused() -> None:
    """An id in use and a prompt without room for output are errors that name the value."""
    scheduler = make_scheduler()
    scheduler.add(sequence("a", 4))
    with pytest.raises(ValueError, match="'a' is in use"):
        scheduler.add(sequence("a", 4))
    with pytest.raises(ValueError, match="from 1 to 63, got 64"):
        scheduler.add(sequence("b", 64))
