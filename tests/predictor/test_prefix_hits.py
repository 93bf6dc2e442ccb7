"""What a gateway says that a prefix cache holds shortens prefills, where there is such a cache."""

from __future__ import annotations

import pytest

from predictor.backends.fast import FastBackend
from predictor.errors import InvalidQuestion
from predictor.overlay import build_population, newcomer
from predictor.questions import check_sent, to_newcomer
from predictor.state.ledger import rebuild
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from tests.predictor.engines import MODEL, NOW, limits, running, snapshot
from wire.prediction import PredictRequest, SentRequest

STEP_TIME = RooflineStepTime(MODEL, find_gpu("A30"))
CACHING, NOT_CACHING = limits(enable_prefix_caching=True), limits()


def sent(cached: int, prompt: int = 1500, age_ms: float = 10.0) -> SentRequest:
    """A request that has no first token yet."""
    return SentRequest(
        request_id=f"r{cached}",
        num_prompt_tokens=prompt,
        expected_output_tokens=100.0,
        sent_age_ms=age_ms,
        num_cached_tokens=cached,
    )


@pytest.fixture(scope="module")
def backend() -> FastBackend:
    """The compiled kernel."""
    return FastBackend(STEP_TIME)


@pytest.mark.parametrize("is_spared", [True, False])
def test_a_what_if_spares_what_is_cached(backend: FastBackend, is_spared: bool) -> None:
    """Of 1,500 prompt tokens 1,200 are held: one chunk in place of three, if the engine caches."""
    engine = CACHING if is_spared else NOT_CACHING
    state = build_population(snapshot(running("a"), engine_limits=engine), [], NOW)
    ttft_s = []
    for cached in (0, 1200):
        question = PredictRequest(
            request_id="q",
            num_prompt_tokens=1500,
            expected_output_tokens=50.0,
            num_cached_tokens=cached,
        )
        (answer,) = backend.predict(state, [to_newcomer(question, engine)])
        ttft_s.append(answer.ttft_s)
    assert (ttft_s[1] < 0.5 * ttft_s[0]) == is_spared
    assert (ttft_s[1] == ttft_s[0]) != is_spared


def test_what_the_engine_has_not_seen_is_spared_its_prefix_too() -> None:
    """Else a request would be thought to wait for prefills that nobody has to do."""
    (unseen,) = build_population(snapshot(engine_limits=CACHING), [sent(1200)], NOW).waiting
    assert unseen.num_computed_tokens == 1200
    (unseen,) = build_population(snapshot(), [sent(1200)], NOW).waiting
    assert unseen.num_computed_tokens == 0


def test_the_account_counts_only_prompt_tokens_to_compute() -> None:
    """With its prefix held, the first prompt is done when the second one's turn has come."""
    requests = [sent(1472, age_ms=100.0), sent(16, age_ms=90.0)]
    begun, _ = rebuild(requests, CACHING, STEP_TIME)
    plain, _ = rebuild(requests, NOT_CACHING, STEP_TIME)
    assert begun[0].num_computed_tokens == 1499
    assert begun[1].num_computed_tokens > 500
    assert [s.request_id for s in plain] == ["r1472"]
    assert plain[0].num_computed_tokens < 1499


def test_a_waiting_request_keeps_its_hit() -> None:
    """It is admitted with it, later."""
    full = limits(enable_prefix_caching=True, max_num_seqs=1)
    running_now, waiting_now = rebuild([sent(0), sent(1201)], full, STEP_TIME)
    assert [s.num_cached_tokens for s in running_now + waiting_now] == [0, 1200]
    assert newcomer("q", 1500, 50.0, full, num_cached_tokens=1201).num_computed_tokens == 1200


def test_an_impossible_hit_is_refused() -> None:
    """With its name."""
    with pytest.raises(InvalidQuestion, match=r"sent\[0\]\.num_cached_tokens"):
        check_sent([sent(-1)])
