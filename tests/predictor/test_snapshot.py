"""Reading snapshots: what is documented can be read, and no bytes do harm."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.backends.base import Backend
from predictor.errors import SimulationFailed, SnapshotCorrupt
from predictor.overlay import build_population, newcomer
from predictor.setup import make_backend
from predictor.state.validate import read_json, read_msgpack
from predictor.step_time.gpus import find_gpu
from tests.predictor.engines import MODEL
from tests.predictor.sound_snapshots import sound_snapshots
from wire.prediction import SentRequest
from wire.snapshot import BatchInFlight, EngineLimits, EngineSnapshot, SequenceState, StepRecord

PAGE = (Path(__file__).parents[2] / "docs/snapshot.md").read_text()
EXAMPLE = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0].encode()


def changed(*path: str | int, value: object) -> bytes:
    """The documented example with one value set to something else."""
    content = json.loads(EXAMPLE)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(content).encode()


@pytest.fixture(scope="module", params=["vllm", "sarathi"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """The one that sidecars use, for the example's model, by each set of rules."""
    return make_backend("fast", request.param, MODEL, find_gpu("A30"), None)


def ask(snapshot: EngineSnapshot, backend: Backend) -> float:
    """The E2E of a small request that comes at the snapshot's time."""
    sent = [SentRequest(request_id="a", num_prompt_tokens=1, expected_output_tokens=1e7)]
    population = build_population(snapshot, sent, snapshot.time)
    (answer,) = backend.predict(population, [newcomer("q", 50, 10.0, snapshot.limits)])
    return answer.e2e_s


def test_the_documented_example_is_read_and_played(backend: Backend) -> None:
    """In both forms; its sequences are found by their gateway's ids."""
    snapshot = read_json(EXAMPLE)
    assert read_msgpack(msgspec.msgpack.encode(snapshot)) == snapshot
    assert [sequence.num_tokens for sequence in snapshot.running] == [161]
    assert 0.1 < ask(snapshot, backend) < 10


@pytest.mark.parametrize(
    "type_", [EngineSnapshot, EngineLimits, SequenceState, BatchInFlight, StepRecord]
)
def test_every_field_is_documented(type_: type[msgspec.Struct]) -> None:
    """With its default, where it has one."""
    rows = {name: row for row in PAGE.splitlines() for name in re.findall(r"^\| `(\w+)`", row)}
    rows |= {"num_decode_tokens": rows["num_prefill_tokens"]}
    rows |= {"num_decode_seqs": rows["num_prefill_seqs"]}
    for field in msgspec.structs.fields(type_):
        default = rows[field.encode_name].split("|")[2].strip()
        if field.required:
            assert default == "required", field
        elif field.default is not msgspec.NODEFAULT:
            assert json.loads(default.strip("`")) == field.default, field


def test_new_fields_are_ignored() -> None:
    """A newer writer may say more."""
    assert read_json(changed("limits", "colour", value="blue")) == read_json(EXAMPLE)


def test_another_version_is_refused_as_such() -> None:
    """Even if its fields are others; both versions are named."""
    for bytes_ in (changed("version", value=2), b'{"version":2,"cores":[]}'):
        with pytest.raises(SnapshotCorrupt, match=r"version: 1 .*got 2"):
            read_json(bytes_)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("num_free_blocks",), 2000, r"num_free_blocks: .* to 1052 \(got 2000\)"),
        (("limits", "max_num_seqs"), 0, r"limits\.max_num_seqs"),
        (("limits", "max_num_batched_tokens"), 10**9, r"limits\.max_num_batched_tokens: .*10{9}\)"),
        (("limits", "max_model_len"), 10**18, r"limits\.max_model_len"),
        (("limits", "block_size"), 10**18, r"limits\.block_size"),
        (("limits", "num_gpu_blocks"), 10**18, r"limits\.num_gpu_blocks"),
        (("running", 0, "num_computed_tokens"), 162, r"running\[0\]\.num_computed_tokens: .*162"),
        (("running", 0, "num_prompt_tokens"), 162, r"running\[0\]\.num_prompt_tokens: .*162"),
        (("running", 0, "num_prompt_tokens"), 0, r"running\[0\]\.num_prompt_tokens: .*got 0"),
        (("running", 0, "num_tokens"), 5000, r"running\[0\]\.num_tokens: .* to 4095"),
        (("running", 0, "num_blocks"), 1053, r"running\[0\]\.num_blocks"),
        (("running", 0, "num_output_placeholders"), 10**9, r"num_output_placeholders"),
        (("running", 0, "priority"), 2**63, r"running\[0\]\.priority"),
        (("running", 0, "status"), "preempted", r"running\[0\]\.status: .*got preempted"),
        (("waiting", 0, "status"), "running", r"waiting\[0\]\.status: .*got running"),
        (("waiting", 0, "status"), "gone", r"waiting\[0\]\.status"),
        (("waiting", 0, "num_cached_tokens"), 301, r"waiting\[0\]\.num_cached_tokens"),
        (("waiting", 0, "request_id"), "cmpl-a-0-1a2b3c4d", r"unique \(got 'cmpl-a-0-1a2b3c4d'\)"),
        (("in_flight", 0, "num_scheduled_tokens"), {"x": 1}, r"in_flight\[0\].*got 'x'"),
        (("in_flight", 0, "num_scheduled_tokens"), {"cmpl-a-0-1a2b3c4d": 513}, r"sum: .*got 513"),
        (("in_flight", 0, "num_scheduled_tokens"), {"cmpl-a-0-1a2b3c4d": 0}, r"got 0"),
        (("in_flight", 0, "prefill_chunks"), ["x"], r"\[0\]\.prefill_chunks: .*got 'x'"),
        (("in_flight", 0, "started_at"), 1764000100, r"in_flight\[0\]\.started_at"),
        (("recent_steps", 0, "prefill_attention"), -1.0, r"recent_steps\[0\]\.prefill_attention"),
        (("recent_steps", 0, "num_kv_tokens"), 10**16, r"recent_steps\[0\]\.num_kv_tokens"),
        (("running",), [{"request_id": 7}], r"running\[0\]\.request_id"),
        (("time",), None, r"\$\.time"),
    ],
)
def test_what_cannot_be_is_refused(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    """The error names the key and the value."""
    with pytest.raises(SnapshotCorrupt, match=message):
        read_json(changed(*path, value=value))


def test_more_running_sequences_than_slots_are_refused() -> None:
    """What-ifs have tables for so many."""
    content = json.loads(changed("limits", "max_num_seqs", value=1))
    content["running"].append(content["running"][0] | {"request_id": "other"})
    with pytest.raises(SnapshotCorrupt, match=r"running: length: .* to 1 \(got 2\)"):
        read_json(json.dumps(content).encode())


def test_a_batch_may_hold_what_another_batch_ended() -> None:
    """With async scheduling, or with several batches in flight."""
    ended = {"started_at": 1764000000.2, "num_scheduled_tokens": {"ended": 1}}
    read_json(changed("in_flight", value=[ended, ended]))
    content = json.loads(changed("in_flight", value=[ended]))
    content["limits"]["async_scheduling"] = True
    read_json(json.dumps(content).encode())


def test_nan_is_refused() -> None:
    """msgpack can carry it."""
    snapshot = read_json(EXAMPLE)
    snapshot.recent_steps[0].prefill_attention = float("nan")
    with pytest.raises(SnapshotCorrupt, match=r"prefill_attention: .*nan"):
        read_msgpack(msgspec.msgpack.encode(snapshot))


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, 2, 15, 16, 17, 100, 513, 4095, 4096, 4097, 2**20, 2**31, 2**53]),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values."""
    if path:
        yield path
    if isinstance(content, list):
        content = dict(enumerate(content))
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*path, key))


PLACES = list(places(json.loads(EXAMPLE)))


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """The example with some of its values replaced, doubled or gone."""
    content = json.loads(EXAMPLE)
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4)):
        inner = content
        try:
            for key in path[:-1]:
                inner = inner[key]
            action = draw(st.sampled_from(["set", "set", "set", "drop", "double"]))
            if action == "set":
                inner[path[-1]] = draw(ODD_VALUES)
            elif action == "drop":
                del inner[path[-1]]
            elif isinstance(inner, list):
                inner.append(inner[path[-1]])
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took that place away
    return content


@given(mutated())
@settings(max_examples=300)
def test_mutated_snapshots_are_answered_or_refused(backend: Backend, content: Any) -> None:
    """As msgpack, which carries every value; what is read can be played, and ends soon."""
    with contextlib.suppress(SnapshotCorrupt, SimulationFailed):
        snapshot = read_msgpack(msgspec.msgpack.encode(content))
        assert 0 <= ask(snapshot, backend) < float("inf")


@given(sound_snapshots())
@settings(max_examples=200)
def test_whatever_passes_can_be_played(backend: Backend, snapshot: EngineSnapshot) -> None:
    """To the end of a request, or until it shows that it would never end."""
    assert read_msgpack(msgspec.msgpack.encode(snapshot)) == snapshot
    with contextlib.suppress(SimulationFailed):
        assert 0 <= ask(snapshot, backend) < float("inf")


def test_prefills_that_stood_aside_when_none_else_is_left(backend: Backend) -> None:
    """By Sarathi's rules, with one token a step and one block; they are preempted in turn."""
    snapshot = read_json(EXAMPLE)
    snapshot.limits = EngineLimits(
        max_num_seqs=8,
        max_num_batched_tokens=1,
        max_model_len=50,
        block_size=1,
        num_gpu_blocks=1,
        async_scheduling=True,
    )

    def sequence(name: str, num_tokens: int, num_prompt_tokens: int) -> SequenceState:
        return SequenceState(
            request_id=name,
            num_prompt_tokens=num_prompt_tokens,
            num_tokens=num_tokens,
            num_computed_tokens=6,
            max_tokens=100,
            arrival_time=5.0,
            status="waiting" if name == "waiting" else "running",
        )

    snapshot.running = [sequence("first", 10, 1), sequence("second", 17, 15)]
    snapshot.waiting = [sequence("waiting", 17, 15)]
    snapshot.num_free_blocks, snapshot.in_flight = 0, []
    with pytest.raises(SimulationFailed, match="never admits"):
        ask(snapshot, backend)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(noise: bytes) -> None:
    """In either form."""
    for read in (read_json, read_msgpack):
        with pytest.raises(SnapshotCorrupt):
            read(noise)


@given(st.data())
def test_damaged_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Cut off, or with some bytes overwritten."""
    is_json = data.draw(st.booleans())
    whole = EXAMPLE if is_json else msgspec.msgpack.encode(read_json(EXAMPLE))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] or whole)
    for _ in range(data.draw(st.integers(0, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SnapshotCorrupt):
        (read_json if is_json else read_msgpack)(bytes(damaged))


@pytest.mark.parametrize("bomb", [b"[" * 200_000, b"\x91" * 200_000, b'{"version":' * 50_000])
def test_deep_nesting_is_refused(bomb: bytes) -> None:
    """Without a crash of the interpreter's stack."""
    for read in (read_json, read_msgpack):
        with pytest.raises(SnapshotCorrupt):
            read(bomb)
