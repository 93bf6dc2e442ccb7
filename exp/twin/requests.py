"""A request of a workload as the gateway takes it, as an engine does, and what it came to."""

from __future__ import annotations

import numpy as np

from exp.study.case import Goals
from exp.study.records import RequestRecord
from exp.twin.engines import EngineRequest
from exp.workloads.request import BLOCK_TOKENS, WorkloadRequest
from global_scheduler.job import Job
from global_scheduler.prefixes import CHARACTERS_PER_TOKEN, Prefix
from global_scheduler.slo import NO_GOAL, GoalDefaults, with_defaults
from wire.length import LengthEstimate, LengthQuestion
from wire.prediction import Slo


def job_of(
    request: WorkloadRequest,
    model: str,
    arrived_s: float,
    length: LengthEstimate,
    goals: Goals,
    defaults: GoalDefaults,
) -> Job:
    """What the gateway knows of it; ``defaults`` are its own goals."""
    num_blocks = request.num_prompt_tokens // BLOCK_TOKENS
    hashes = request.block_hashes[:num_blocks]
    named = Slo(ttft_ms=goals.ttft_ms, tpot_ms=goals.tpot_ms) if goals.are_sent else NO_GOAL
    return Job(
        request_id=request.request_id,
        model=model,
        arrived_s=arrived_s,
        num_prompt_tokens=request.num_prompt_tokens,
        length_question=LengthQuestion(text="", num_prompt_tokens=request.num_prompt_tokens),
        length=length,
        max_tokens=request.max_tokens,
        priority=request.priority,
        importance=-request.priority,
        user=request.user,
        session_id=request.session,
        prefix=Prefix(
            hashes,
            request.num_prompt_tokens * CHARACTERS_PER_TOKEN,
            f"{hashes[0]:x}" if hashes else "",
        ),
        is_streamed=True,
        slo=with_defaults(named, model, defaults),
    )


def engine_request(index: int, request: WorkloadRequest, max_model_len: int) -> EngineRequest:
    """What the engine gets, the true length included."""
    # Sidecars see this bound, so the true length must not be in it.
    most = request.max_tokens or max_model_len - request.num_prompt_tokens
    return EngineRequest(
        index=index,
        num_prompt_tokens=request.num_prompt_tokens,
        output_length=request.num_output_tokens,
        max_tokens=most,
        priority=request.priority,
        block_hashes=np.array(request.block_hashes, dtype=np.int64),
    )


def empty_record(request: WorkloadRequest, job: Job) -> RequestRecord:
    """Before anything has happened."""
    return RequestRecord(
        request_id=request.request_id,
        at_s=request.at_s,
        request_class=request.request_class,
        session=request.session,
        num_prompt_tokens=request.num_prompt_tokens,
        expected_output_tokens=job.length.mean_tokens,
    )


def is_good(record: RequestRecord, goals: Goals) -> bool:
    """Whether it met the goals that it could be seen to meet."""
    pairs = ((goals.ttft_ms, record.ttft_ms), (goals.tpot_ms, record.tpot_ms))
    return all(goal is None or met is None or met <= goal for goal, met in pairs)
