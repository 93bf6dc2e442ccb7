"""What a what-if starts from."""

from __future__ import annotations

import msgspec
import pytest

from predictor.overlay import MAX_UNSEEN_AGE_MS, build_population, newcomer, try_match
from predictor.remaining import expected_remaining, length_points
from tests.predictor.engines import NOW, limits, population, running, snapshot, waiting
from wire.prediction import SentRequest, Slo
from wire.snapshot import BatchInFlight, SequenceState


def sent(request_id: str, output: float = 80.0, **others: object) -> SentRequest:
    """A request that the gateway has in flight."""
    return SentRequest(
        request_id=request_id,
        num_prompt_tokens=60,
        expected_output_tokens=output,
        **others,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "engine_id",
    ["a-1", "cmpl-a-1-0-1a2b3c4d", "cmpl-a-1-0", "chatcmpl-a-1-1a2b3c4d", "chatcmpl-a-1"],
)
def test_an_engines_id_is_matched(engine_id: str) -> None:
    """The engine puts words around the gateway's id."""
    request = sent("a-1")
    assert try_match(engine_id, {"a": sent("a"), "a-1": request}) is request


@pytest.mark.parametrize("engine_id", ["cmpl-a-10-0-1a2b3c4d", "cmpl-xa-1-0-1a2b3c4d", "", "-"])
def test_another_requests_id_is_not_matched(engine_id: str) -> None:
    """Even when it contains the gateway's id as a piece of a word."""
    assert try_match(engine_id, {"a-1": sent("a-1")}) is None


def test_expected_output_comes_from_what_was_sent() -> None:
    """And from the default where nothing is known."""
    state = snapshot(running("cmpl-a-0-1a2b3c4d"), running("b"), waiting("chatcmpl-c-1a2b3c4d"))
    found = build_population(state, [sent("a"), sent("c", 30)], NOW, default_output_tokens=100)
    assert [seq.remaining_tokens for seq in found.running] == [70, 90]
    assert [seq.remaining_tokens for seq in found.waiting] == [30]


def test_expected_output_stays_within_max_tokens() -> None:
    """And within the engine's longest sequence."""
    long = msgspec.structs.replace(running("a"), max_tokens=20)
    far = running("b", prompt=4000)
    found = build_population(snapshot(long, far), [sent("a", 500), sent("b", 500)], NOW)
    assert [seq.remaining_tokens for seq in found.running] == [10, 86]


def test_a_distribution_tells_what_is_left_of_a_sequence() -> None:
    """E[L | L > generated] - generated, rather than the mean less what there is."""
    quantiles = {"0.5": 100.0, "0.9": 500.0}
    state = snapshot(running("a", generated=10), running("b", generated=600))
    requests = [sent(name, 1.0, quantiles=quantiles) for name in ("a", "b", "c")]
    found = build_population(state, requests, NOW)
    points = length_points(quantiles)
    assert [seq.remaining_tokens for seq in (*found.running, *found.waiting)] == [
        round(expected_remaining(points, generated, most))
        for generated, most in ((10, 1000), (600, 1000), (0, 4036))
    ]


def test_bounds_and_goals_of_sequences() -> None:
    """How much may still come, when it came, what it was promised, and since when."""
    slo = Slo(ttft_ms=500.0, tpot_ms=50.0)
    state = snapshot(msgspec.structs.replace(running("a"), arrival_time=NOW - 2), waiting("b"))
    told = sent("a", slo=slo, sent_age_ms=2500.0, first_token_age_ms=1500.0)
    unseen = sent("c", slo=slo, sent_age_ms=20.0, max_tokens=30)
    found = build_population(state, [told, unseen], NOW)
    (first,), (second, third) = found.running, found.waiting
    assert (first.num_output_tokens, first.max_remaining_tokens) == (10, 990)
    assert (first.slo, first.age_s, first.first_token_age_s) == (slo, 2.5, 1.5)
    assert first.arrival_time == NOW - 2
    assert (second.slo, second.age_s, second.first_token_age_s) == (None, 0.0, None)
    assert (third.max_remaining_tokens, third.remaining_tokens) == (30, 30)
    assert (third.slo, third.age_s, third.first_token_age_s) == (slo, 0.02, None)
    assert third.arrival_time == pytest.approx(NOW - 0.02)


def test_an_unseen_request_waits_at_the_end_of_the_queue() -> None:
    """The oldest first."""
    requests = [sent("young", sent_age_ms=1.0), sent("old", sent_age_ms=9.0)]
    found = build_population(snapshot(waiting("w")), requests, NOW)
    assert [seq.request_id for seq in found.waiting] == ["w", "old", "young"]
    assert found.waiting[1].num_tokens == 60


def test_an_unseen_request_that_has_streamed_has_ended() -> None:
    """The engine knew it once, and does not any more."""
    found = build_population(snapshot(), [sent("a", has_first_token=True)], NOW)
    assert found.waiting == ()


def test_an_unseen_request_that_is_too_old_was_lost() -> None:
    """It would otherwise burden the unit for ever."""
    ages = (MAX_UNSEEN_AGE_MS, MAX_UNSEEN_AGE_MS + 1)
    requests = [sent(f"a{age}", sent_age_ms=age) for age in ages]
    found = build_population(snapshot(), requests, NOW)
    assert [seq.request_id for seq in found.waiting] == [f"a{ages[0]}"]


def test_an_old_request_may_wait_where_the_snapshot_does_not_reach() -> None:
    """At the end of a queue that is too long for it."""
    state = msgspec.structs.replace(snapshot(waiting("w")), num_waiting_left_out=3)
    found = build_population(state, [sent("old", sent_age_ms=60_000.0)], NOW)
    assert [seq.request_id for seq in found.waiting] == ["w", "old"]


def test_a_known_request_is_not_counted_twice() -> None:
    """Neither running nor waiting."""
    state = snapshot(running("cmpl-a-0-1a2b3c4d"), waiting("cmpl-b-0-1a2b3c4d"))
    found = build_population(state, [sent("a"), sent("b"), sent("b")], NOW)
    assert (len(found.running), len(found.waiting)) == (1, 1)


def test_priority_orders_the_queue() -> None:
    """Only where the engine schedules by priority; equal ones stay in order."""
    sequences = [waiting("a", priority=5), waiting("b", priority=1), waiting("c", priority=5)]
    by_priority = population(*sequences, engine_limits=limits(scheduling_policy="priority"))
    assert [seq.request_id for seq in by_priority.waiting] == ["b", "a", "c"]
    by_arrival = population(*sequences)
    assert [seq.request_id for seq in by_arrival.waiting] == ["a", "b", "c"]


def test_batches_in_flight_are_taken_back() -> None:
    """The engine counts their tokens as computed; a what-if starts before them."""
    state = snapshot(running("a"))
    state.in_flight = [BatchInFlight(started_at=NOW, num_scheduled_tokens={"a": 1})] * 2
    state.running[0].num_computed_tokens += 2
    assert build_population(state, [], NOW).running[0].num_computed_tokens == 109


def test_a_waiting_sequence_has_computed_what_the_prefix_cache_holds() -> None:
    """Whole blocks, of which at least one token is left to compute."""
    partly = msgspec.structs.replace(waiting("a"), num_cached_tokens=64)
    wholly = msgspec.structs.replace(waiting("b", prompt=64), num_cached_tokens=64)
    found = population(partly, wholly)
    assert [seq.num_computed_tokens for seq in found.waiting] == [64, 48]


def test_unprocessed_tokens_and_wanted_blocks() -> None:
    """A decoding sequence owes its output, a waiting one its prompt, too."""
    found = population(running("a", prompt=100, generated=10), waiting("b", prompt=100))
    assert found.num_unprocessed_tokens == 90 + (100 + 100 - 1)
    assert found.kv_blocks_wanted == 7


def test_a_preempted_sequence_waits_with_all_its_tokens() -> None:
    """It has to compute what it had generated again."""
    preempted = SequenceState(
        request_id="a", num_prompt_tokens=100, num_tokens=130, max_tokens=1000, status="preempted"
    )
    (found,) = population(preempted).waiting
    assert (found.num_tokens, found.num_computed_tokens, found.remaining_tokens) == (130, 0, 70)


def test_a_newcomer_is_cut_to_what_fits() -> None:
    """To the engine's longest sequence and to all of its blocks."""
    assert newcomer("a", 9000, 50.0, limits()).num_tokens == 4095
    cut = newcomer("a", 100, 5000.0, limits(num_gpu_blocks=10))
    assert (cut.num_tokens, cut.remaining_tokens) == (100, 60)
    assert newcomer("a", 100, 500.0, limits(), max_tokens=7).remaining_tokens == 7


def test_a_newcomers_hits_are_whole_blocks() -> None:
    """One token at least is computed, and nothing is spared where nothing is cached."""
    caching = limits(enable_prefix_caching=True)
    computed = [
        newcomer("a", 100, 50.0, caching, num_cached_tokens=cached).num_computed_tokens
        for cached in (0, 15, 40, 96, 100, 5000)
    ]
    assert computed == [0, 0, 32, 96, 96, 96]
    assert newcomer("a", 96, 50.0, caching, num_cached_tokens=96).num_computed_tokens == 80
    assert newcomer("a", 100, 50.0, limits(), num_cached_tokens=96).num_computed_tokens == 0


def test_a_newcomers_distribution_is_cut_to_the_room() -> None:
    """Its expected length is that of the cut one; a single number has no quantiles."""
    quantiles = {"0.9": 500.0, "0.5": 100.4}
    found = newcomer("a", 100, None, limits(), max_tokens=300, quantiles=quantiles)
    assert found.output_quantiles == ((0.5, 100), (0.9, 300))
    assert found.max_remaining_tokens == 300
    assert found.remaining_tokens == round(expected_remaining([(0.5, 100.4), (0.9, 500.0)], 0, 300))
    assert newcomer("a", 100, 50.0, limits()).output_quantiles == ()
