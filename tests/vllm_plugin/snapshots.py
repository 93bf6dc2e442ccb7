"""Snapshots to publish in tests."""

from __future__ import annotations

import uuid

import msgspec

from wire.snapshot import SNAPSHOT_VERSION, EngineLimits, EngineSnapshot


def new_engine_id() -> str:
    """An id that no other test and no real engine uses."""
    return f"test-{uuid.uuid4().hex}"


def encoded_snapshot(engine_id: str, step: int = 1) -> bytes:
    """An idle engine's snapshot."""
    limits = EngineLimits(
        max_num_seqs=8, max_num_batched_tokens=512, max_model_len=2048, block_size=16,
        num_gpu_blocks=100,
    )  # fmt: skip
    snapshot = EngineSnapshot(
        version=SNAPSHOT_VERSION,
        engine_id=engine_id,
        model="m",
        step=step,
        time=1.0,
        limits=limits,
        num_free_blocks=100,
    )
    return msgspec.msgpack.encode(snapshot)
