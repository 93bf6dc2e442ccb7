"""A coarse state from an engine's Prometheus page."""

from __future__ import annotations

import pytest

from predictor.errors import StateUnavailable
from predictor.overlay import build_population
from predictor.state.metrics import (
    EngineCounts,
    MetricsStateSource,
    limits_of,
    name_sequences,
    parse_metrics,
    synthetic_running,
)
from predictor.state.validate import check_snapshot
from tests.predictor.engines import MODEL, NOW, limits, snapshot, waiting
from tests.predictor.sidecar import metrics_page, metrics_server
from wire.prediction import SentRequest


def test_the_page_of_an_engine_is_read() -> None:
    """Counts are summed over its cores, the usage is their mean."""
    page = metrics_page(num_running=3, num_waiting=2, kv_usage=0.25)
    page += metrics_page(num_running=1, num_waiting=0, kv_usage=0.75, engine=1, with_help=False)
    counts = parse_metrics(page)
    assert counts == EngineCounts(
        num_running=4,
        num_waiting=2,
        kv_usage=0.5,
        num_preemptions=14,
        cache_config={"block_size": "16", "num_gpu_blocks": "800", "engine": "1"},
    )


def test_limits_come_from_the_engine_where_it_tells_them() -> None:
    """Else from the model's configuration."""
    told = limits_of(MODEL, 500, {"block_size": "32", "num_gpu_blocks": "800"})
    assert (told.block_size, told.num_gpu_blocks, told.max_num_seqs) == (32, 800, 48)
    silent = limits_of(MODEL, 500, {"block_size": "None", "num_gpu_blocks": ""})
    assert (silent.block_size, silent.num_gpu_blocks) == (16, 500)


@pytest.mark.parametrize("page", ["", "<html>", "vllm:num_requests_running 1\n", "a{ 1\n"])
def test_another_page_is_no_state(page: str) -> None:
    """The error says so, whatever is served there."""
    with pytest.raises(StateUnavailable, match="/metrics"):
        parse_metrics(page)


def test_counted_sequences_share_the_used_blocks() -> None:
    """Each decodes halfway through an average answer."""
    found = synthetic_running(4, 100, limits())
    assert [(s.num_tokens, s.num_blocks) for s in found] == [(400, 25)] * 4
    assert all(s.num_computed_tokens == s.num_tokens - 1 for s in found)
    assert synthetic_running(0, 100, limits()) == []


def test_what_was_sent_gives_counted_sequences_their_sizes() -> None:
    """Streams run, then the oldest; the rest waits, what nobody sent stays synthetic."""
    counted = snapshot(
        *synthetic_running(2, 40, limits()), waiting("metrics:w1"), waiting("metrics:w2")
    )
    sent = [
        SentRequest(request_id="young", num_prompt_tokens=30, expected_output_tokens=10),
        SentRequest(
            request_id="old", num_prompt_tokens=20, expected_output_tokens=10, sent_age_ms=9.0
        ),
        SentRequest(
            request_id="stream",
            num_prompt_tokens=50,
            expected_output_tokens=80,
            has_first_token=True,
        ),
    ]
    named = name_sequences(counted, sent)
    assert [s.request_id for s in named.running] == ["stream", "old"]
    assert [s.request_id for s in named.waiting] == ["young", "metrics:w2"]
    found = build_population(named, sent, NOW)
    assert [(s.num_tokens, s.remaining_tokens) for s in found.running] == [(90, 40), (20, 10)]
    assert [s.num_tokens for s in found.waiting] == [30, 100]


def test_a_stream_that_the_page_does_not_count_runs_all_the_same() -> None:
    """The page is of the past, the stream is open."""
    stream = SentRequest(
        request_id="s", num_prompt_tokens=50, expected_output_tokens=80, has_first_token=True
    )
    assert [s.request_id for s in name_sequences(snapshot(), [stream]).running] == ["s"]


@pytest.mark.parametrize("count", ["-1", "1e18"])
def test_counts_that_cannot_be_are_refused(count: str) -> None:
    """A sequence is made for each."""
    page = metrics_page(num_running=3).replace("} 3.0", f"}} {count}")
    with pytest.raises(StateUnavailable, match="num_requests_running cannot be"):
        parse_metrics(page)


@pytest.mark.anyio
@pytest.mark.parametrize("max_model_len", [2, 100, 4096])
async def test_whatever_the_page_says_is_a_state_or_refused(max_model_len: int) -> None:
    """More running sequences than slots, tiny models, blocks that are too few or far too many."""
    model = MODEL.model_copy(update={"max_model_len": max_model_len})
    with metrics_server() as engine:
        source = MetricsStateSource(engine.url, model, "e", 500, lambda: NOW, max_age_s=-1.0)
        engine.page = metrics_page(num_running=60, num_waiting=2, kv_usage=1.5)
        found = await source.read()
        check_snapshot(found)
        assert (len(found.running), found.limits.max_num_seqs) == (60, 60)
        engine.page = engine.page.replace('"800"', '"1"').replace('"16"', '"1"')
        check_snapshot(await source.read())
        engine.page = engine.page.replace('"1"', '"999999999999999999"', 1)
        with pytest.raises(StateUnavailable, match=r"limits\.block_size"):
            await source.read()
        await source.close()
