"""Answers as they travel: what a backend found, and the state of the engine it started from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictor.backends.base import Answer, BacklogAnswer
from wire.prediction import (
    BacklogItem,
    BacklogPrediction,
    Prediction,
    PredictRequest,
    StateSource,
)


@dataclass(slots=True)
class Circumstances:
    """What every answer says of the engine; see ``Prediction``."""

    kv_blocks_free: int
    kv_blocks_total: int
    kv_blocks_wanted: int
    max_num_seqs: int
    num_running: int
    num_waiting: int
    num_unprocessed_tokens: int
    state_source: StateSource
    state_age_ms: float
    state_is_stale: bool


def prediction_of(
    request_id: str, answer: Answer, now: Circumstances, backend: str, took_ms: float
) -> Prediction:
    """The answer to one question. A length that is one number has no spread."""
    e2e_p50_s = answer.e2e_s if answer.e2e_p50_s is None else answer.e2e_p50_s
    e2e_p90_s = answer.e2e_s if answer.e2e_p90_s is None else answer.e2e_p90_s
    return Prediction(
        request_id=request_id,
        queue_ms=answer.queue_s * 1e3,
        ttft_ms=answer.ttft_s * 1e3,
        tpot_ms=answer.tpot_s * 1e3,
        e2e_ms=answer.e2e_s * 1e3,
        ttft_p50_ms=answer.ttft_s * 1e3,
        ttft_p90_ms=answer.ttft_s * 1e3,
        tpot_p50_ms=answer.tpot_s * 1e3,
        tpot_p90_ms=answer.tpot_s * 1e3,
        e2e_p50_ms=e2e_p50_s * 1e3,
        e2e_p90_ms=e2e_p90_s * 1e3,
        added_delay_others_ms=answer.added_delay_others_s * 1e3,
        max_added_delay_ms=answer.max_added_delay_s * 1e3,
        added_gap_ms=answer.added_gap_s * 1e3,
        num_slo_broken=answer.num_slo_broken,
        kv_blocks_free=now.kv_blocks_free,
        kv_blocks_total=now.kv_blocks_total,
        kv_blocks_wanted=now.kv_blocks_wanted,
        max_num_seqs=now.max_num_seqs,
        num_running=now.num_running,
        num_waiting=now.num_waiting,
        num_preempted=answer.num_preempted,
        num_own_preemptions=answer.num_own_preemptions,
        num_unprocessed_tokens=now.num_unprocessed_tokens,
        state_source=now.state_source,
        state_age_ms=now.state_age_ms,
        state_is_stale=now.state_is_stale,
        backend=backend,
        time_to_predict_ms=took_ms,
    )


def backlog_prediction_of(
    requests: Sequence[PredictRequest], answer: BacklogAnswer, now: Circumstances, took_ms: float
) -> BacklogPrediction:
    """The answer about a backlog."""
    return BacklogPrediction(
        requests=[
            BacklogItem(
                request_id=request.request_id,
                queue_ms=met.queue_s * 1e3,
                ttft_ms=met.ttft_s * 1e3,
                tpot_ms=met.tpot_s * 1e3,
                e2e_ms=met.e2e_s * 1e3,
            )
            for request, met in zip(requests, answer.requests, strict=True)
        ],
        drain_ms=answer.drain_s * 1e3,
        added_delay_others_ms=answer.added_delay_others_s * 1e3,
        num_slo_broken=answer.num_slo_broken,
        state_source=now.state_source,
        state_age_ms=now.state_age_ms,
        state_is_stale=now.state_is_stale,
        time_to_predict_ms=took_ms,
    )
