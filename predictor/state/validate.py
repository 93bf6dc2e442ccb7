"""Reads a snapshot off bytes and checks what its types cannot say.

There is one rule for files and for live engines: what no truthful engine says is refused, with the
key and the value. A file's reader then knows what to mend, and the sidecar of a lying engine goes
on with its next source. What a truthful engine may say at an unlucky moment passes, such as a batch
in flight with a request that has ended meanwhile (async scheduling). Sizes are bounded so that no
snapshot can make a what-if run for minutes or out of memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from predictor.errors import SnapshotCorrupt
from wire.prediction import MAX_PRIORITY, MAX_TOKENS
from wire.snapshot import SNAPSHOT_VERSION, EngineLimits, EngineSnapshot, SequenceState, StepRecord

MAX_SEQUENCES = 20_000
MAX_BATCHED_TOKENS = 2**20
MAX_SEQS_IN_BATCH = 2**16
MAX_BLOCKS = 2**31
MAX_PLACEHOLDERS = 2**10
MAX_FEATURE = 1e15
"""Of a step's record, such as its sum of attended tokens."""
MAX_CLOCK_STEP_S = 60.0
"""An engine's clock may be set between a batch's start and the snapshot."""


class _Version(msgspec.Struct):
    version: int


_snapshot_of_msgpack = msgspec.msgpack.Decoder(EngineSnapshot).decode
_snapshot_of_json = msgspec.json.Decoder(EngineSnapshot).decode
_version_of_msgpack = msgspec.msgpack.Decoder(_Version).decode
_version_of_json = msgspec.json.Decoder(_Version).decode


def read_msgpack(payload: bytes) -> EngineSnapshot:
    """A snapshot as engines publish it. Raises SnapshotCorrupt, which names key and value."""
    return _read(payload, _snapshot_of_msgpack, _version_of_msgpack)


def read_json(payload: bytes) -> EngineSnapshot:
    """A snapshot as files hold it. Raises SnapshotCorrupt, which names key and value."""
    return _read(payload, _snapshot_of_json, _version_of_json)


def check_snapshot(snapshot: EngineSnapshot) -> None:
    """Raises SnapshotCorrupt for what no truthful engine says."""
    limits = snapshot.limits
    _check_limits(limits)
    _check("num_free_blocks", snapshot.num_free_blocks, 0, limits.num_gpu_blocks)
    _check("running: length", len(snapshot.running), 0, limits.max_num_seqs)
    _check("waiting: length", len(snapshot.waiting), 0, MAX_SEQUENCES)
    for index, sequence in enumerate(snapshot.running):
        if not _is_sound(sequence, limits) or sequence.status != "running":
            _explain(f"running[{index}].", sequence, limits, ("running",))
    for index, sequence in enumerate(snapshot.waiting):
        if not _is_sound(sequence, limits) or sequence.status == "running":
            _explain(f"waiting[{index}].", sequence, limits, ("waiting", "preempted"))
    _check_in_flight(snapshot, _ids(snapshot))
    for index, record in enumerate(snapshot.recent_steps):
        _check_record(f"recent_steps[{index}].", record)


def _read(
    payload: bytes,
    decode: Callable[[bytes], EngineSnapshot],
    decode_version: Callable[[bytes], _Version],
) -> EngineSnapshot:
    try:
        snapshot = decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # Another version's snapshot may well have another form; then that is the reason to give.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _check_version(decode_version(payload).version)
        raise SnapshotCorrupt(str(error)) from error
    _check_version(snapshot.version)
    check_snapshot(snapshot)
    return snapshot


def _check_version(version: int) -> None:
    if version != SNAPSHOT_VERSION:
        raise SnapshotCorrupt(
            f"version: {SNAPSHOT_VERSION} is the one that can be read (got {version})"
        )


def _check_limits(limits: EngineLimits) -> None:
    _check("limits.max_num_seqs", limits.max_num_seqs, 1, MAX_SEQS_IN_BATCH)
    _check("limits.max_num_batched_tokens", limits.max_num_batched_tokens, 1, MAX_BATCHED_TOKENS)
    _check("limits.max_model_len", limits.max_model_len, 2, MAX_TOKENS)
    _check("limits.block_size", limits.block_size, 1, MAX_TOKENS)
    _check("limits.num_gpu_blocks", limits.num_gpu_blocks, 1, MAX_BLOCKS)
    threshold = limits.long_prefill_token_threshold
    _check("limits.long_prefill_token_threshold", threshold, 0, MAX_TOKENS)


def _is_sound(sequence: SequenceState, limits: EngineLimits) -> bool:
    """Whether ``_explain`` would find nothing in its numbers; in one expression, for speed."""
    return (
        1 <= sequence.num_prompt_tokens <= sequence.num_tokens < limits.max_model_len
        and sequence.num_output_placeholders <= MAX_PLACEHOLDERS
        and sequence.num_computed_tokens <= sequence.num_tokens + sequence.num_output_placeholders
        and sequence.num_cached_tokens <= sequence.num_tokens
        and sequence.num_blocks <= limits.num_gpu_blocks
        and -MAX_PRIORITY <= sequence.priority <= MAX_PRIORITY
    )


def _explain(
    path: str, sequence: SequenceState, limits: EngineLimits, statuses: tuple[str, ...]
) -> None:
    """Raise for the first thing that is wrong with a sequence."""
    tokens, placeholders = sequence.num_tokens, sequence.num_output_placeholders
    # A sequence that is as long as the longest has ended.
    _check(path + "num_tokens", tokens, 1, limits.max_model_len - 1)
    _check(path + "num_prompt_tokens", sequence.num_prompt_tokens, 1, tokens)
    _check(path + "num_output_placeholders", placeholders, 0, MAX_PLACEHOLDERS)
    _check(path + "num_computed_tokens", sequence.num_computed_tokens, 0, tokens + placeholders)
    _check(path + "num_cached_tokens", sequence.num_cached_tokens, 0, tokens)
    _check(path + "num_blocks", sequence.num_blocks, 0, limits.num_gpu_blocks)
    _check(path + "priority", sequence.priority, -MAX_PRIORITY, MAX_PRIORITY)
    if sequence.status not in statuses:
        raise SnapshotCorrupt(
            f"{path}status: must be {' or '.join(statuses)} (got {sequence.status})"
        )


def _ids(snapshot: EngineSnapshot) -> set[str]:
    """Of all sequences, once each."""
    sequences = snapshot.running + snapshot.waiting
    ids = {sequence.request_id for sequence in sequences}
    if len(ids) < len(sequences):
        seen: set[str] = set()
        for sequence in sequences:
            if sequence.request_id in seen:
                raise SnapshotCorrupt(f"request_id: must be unique (got {sequence.request_id!r})")
            seen.add(sequence.request_id)
    return ids


def _check_in_flight(snapshot: EngineSnapshot, known: set[str]) -> None:
    # With a second batch in flight, a sequence that the first one ended may be in it.
    may_have_ended = snapshot.limits.async_scheduling or len(snapshot.in_flight) > 1
    for index, batch in enumerate(snapshot.in_flight):
        path = f"in_flight[{index}]."
        _check(path + "started_at", batch.started_at, 0, snapshot.time + MAX_CLOCK_STEP_S)
        tokens = batch.num_scheduled_tokens
        for request_id in batch.prefill_chunks:
            if request_id not in tokens:
                raise SnapshotCorrupt(
                    f"{path}prefill_chunks: must be in num_scheduled_tokens (got {request_id!r})"
                )
        path += "num_scheduled_tokens"
        _check(path + ": length", len(tokens), 0, snapshot.limits.max_num_seqs)
        _check(path + ": sum", sum(tokens.values()), 0, snapshot.limits.max_num_batched_tokens)
        for request_id in tokens:
            _check(f"{path}.{request_id}", tokens[request_id], 1, MAX_TOKENS)
            if request_id not in known and not may_have_ended:
                raise SnapshotCorrupt(
                    f"{path}: must be of running or waiting requests (got {request_id!r})"
                )


def _check_record(path: str, record: StepRecord) -> None:
    for name in ("num_prefill_tokens", "num_decode_tokens", "num_prefill_seqs", "num_decode_seqs"):
        _check(path + name, getattr(record, name), 0, MAX_BATCHED_TOKENS)
    _check(path + "num_kv_tokens", record.num_kv_tokens, 0, MAX_FEATURE)
    _check(path + "prefill_attention", record.prefill_attention, 0, MAX_FEATURE)


def _check(name: str, value: float, least: float, most: float) -> None:
    """Refuses NaN as well."""
    if not least <= value <= most:
        raise SnapshotCorrupt(f"{name}: must be from {least} to {most} (got {value})")
