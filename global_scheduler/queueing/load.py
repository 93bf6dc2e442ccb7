"""How loaded units are, by what their engines can really take. Pure; the twin runs the same code.

A gateway without a concurrency limit would put any number of requests on a unit, so its own limits
say nothing of load there. What bounds an engine is how many requests it runs at a time, its KV
blocks, and the work before it, which shows as a queue (ADR 15).
"""

from __future__ import annotations

from collections.abc import Sequence

from global_scheduler.queueing.tickets import NO_LIMIT, EngineFacts, Room
from wire.prediction import Prediction

ASSUMED_MAX_NUM_SEQS = 256
"""Requests at a time on an engine of which nobody has said: vLLM 0.32's default on A30 and A100."""
FULL_FROM_QUEUE_S = 1.0
"""An engine in which a newcomer would wait so long, longer than for the step under way, is full."""
FRESH_S = 2.0
"""So long after its sidecar was asked an engine is taken to be as it was. Under load somebody is
asked all the time; how many requests an engine runs at a time does not change."""


def facts_of(prediction: Prediction, asked_s: float) -> EngineFacts:
    """What an answer says of the engine; figures that cannot be say nothing."""
    total, free = prediction.kv_blocks_total, prediction.kv_blocks_free
    return EngineFacts(
        asked_s,
        prediction.max_num_seqs if prediction.max_num_seqs > 0 else None,
        1.0 - free / total if 0 <= free <= total and total else None,
        None if prediction.backend == "none" else prediction.queue_ms / 1e3,
    )


def places(limit: int, engine: EngineFacts) -> int:
    """Requests that a unit can run at a time: by its limit and its engine, where they are known."""
    most = engine.max_num_seqs
    if most is None:
        return limit if limit < NO_LIMIT else ASSUMED_MAX_NUM_SEQS
    return min(most, limit)


def load_of(room: Room, now_s: float) -> float:
    """How full a unit is, 0 to 1: by requests, by KV blocks or by its queue, what is most."""
    load = room.active / places(room.limit, room.engine)
    engine = room.engine
    if now_s - engine.told_s <= FRESH_S:
        is_full = engine.queue_s is not None and engine.queue_s >= FULL_FROM_QUEUE_S
        load = max(load, engine.kv_share or 0.0, 1.0 if is_full else 0.0)
    return min(1.0, load)


def fleet_load(rooms: Sequence[Room], now_s: float) -> float:
    """How full the fleet is, 0 to 1: a unit counts by its places; 1 without any unit."""
    most = [places(room.limit, room.engine) for room in rooms]
    if not most:
        return 1.0
    taken = sum(load_of(room, now_s) * count for room, count in zip(rooms, most, strict=True))
    return taken / sum(most)
