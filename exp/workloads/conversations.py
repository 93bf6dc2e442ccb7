"""Whole ShareGPT conversations as a workload: each turn's prompt is all that was said before it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from exp.study.case import WorkloadSpec
from exp.workloads.arrivals import drawn_arrivals_s
from exp.workloads.request import BLOCK_TOKENS, WorkloadRequest
from exp.workloads.sharegpt_texts import Session, sessions

LEAST_PAUSE, MOST_PAUSE = 0.5, 1.5
"""From turn to turn, as shares of the mean: seldom too short for the last answer to be there."""
LAP = 0x5851F42D4C957F2D
"""Makes the hashes of a session that is played again those of another one."""


def conversation_requests(
    spec: WorkloadSpec, rate_per_s: float, seed: int
) -> list[WorkloadRequest]:
    """Turns in order of arrival; a session's block hashes continue from turn to turn.

    The load is steady from beginning to end: what of a session would come after the end stands at
    the beginning instead, as part of another session that had begun before.

    Raises:
        WorkloadError: ShareGPT is not installed, or the tokenizer cannot be read.
        ValueError: nothing fits into ``max_model_len``.
    """
    drawn = _drawn_sessions(spec, random.Random(f"{seed} contents"))
    starts_s = drawn_arrivals_s(
        spec.arrivals,
        rate_per_s * len(drawn) / spec.num_requests,
        random.Random(f"{seed} arrivals"),
    )
    pauses = random.Random(f"{seed} pauses")
    turns = [
        turn
        for name, (session, start_s) in enumerate(zip(drawn, starts_s, strict=False))
        for turn in _turns(name, session, _times_s(start_s, spec.think_s, pauses), spec, rate_per_s)
    ]
    return sorted(turns[: spec.num_requests], key=lambda turn: turn.at_s)


def _drawn_sessions(spec: WorkloadSpec, rng: random.Random) -> list[Session]:
    """As many as have the turns that are asked for."""
    known = sessions(spec.tokenizer, spec.max_model_len)
    if not known:
        raise ValueError(f"nothing of ShareGPT fits into {spec.max_model_len} tokens")
    drawn, num_turns = list[Session](), 0
    for session in itertools.cycle(rng.sample(known, len(known))):
        drawn.append(session)
        num_turns += len(session.turns)
        if num_turns >= spec.num_requests:
            break
    return drawn


def _times_s(start_s: float, think_s: float, rng: random.Random) -> Iterator[float]:
    while True:
        yield start_s
        start_s += think_s * rng.uniform(LEAST_PAUSE, MOST_PAUSE)


def _turns(
    number: int, session: Session, times_s: Iterator[float], spec: WorkloadSpec, rate_per_s: float
) -> Iterator[WorkloadRequest]:
    span_s = spec.num_requests / rate_per_s
    for index, (turn, time_s) in enumerate(zip(session.turns, times_s, strict=False)):
        lap, at_s = int(time_s // span_s), time_s % span_s
        name = f"session-{number:05d}" + (f"-{lap}" if lap else "")
        hashes = session.block_hashes[: sum(turn) // BLOCK_TOKENS]
        yield WorkloadRequest(
            request_id=f"{name}-turn-{index:02d}",
            at_s=at_s,
            num_prompt_tokens=turn.num_prompt_tokens,
            num_output_tokens=turn.num_output_tokens,
            block_hashes=tuple((one + lap * LAP) % 2**63 for one in hashes) if lap else hashes,
            session=name,
        )
