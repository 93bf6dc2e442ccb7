"""Step times are learnt from a real snapshot file, while questions go on."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator

import msgspec
import pytest

from predictor.learning import LiveStepTime, StepTimeLearner
from predictor.state.plugin import PluginStateSource
from predictor.step_time.base import StepTimeModel, batch_shape
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from predictor.vllm_plugin.shared_memory import SnapshotWriter
from tests.predictor.engines import MODEL, running, snapshot
from wire.snapshot import StepRecord

NUM_DECODES = 8
CONTEXT = 200
DECODES = batch_shape(decode_contexts=[CONTEXT] * NUM_DECODES)


def records(first: int, count: int, duration_s: float) -> list[StepRecord]:
    """Decode steps that all take as long."""
    return [
        StepRecord(
            step=step,
            started_at=float(step),
            duration_s=duration_s,
            num_decode_tokens=NUM_DECODES,
            num_decode_seqs=NUM_DECODES,
            num_kv_tokens=NUM_DECODES * CONTEXT,
        )
        for step in range(first, first + count)
    ]


@pytest.fixture
def writer() -> Iterator[SnapshotWriter]:
    """An engine's side."""
    opened = SnapshotWriter(f"test-{uuid.uuid4().hex}")
    yield opened
    opened.close()


def publish(writer: SnapshotWriter, steps: list[StepRecord]) -> None:
    """A snapshot with these last steps."""
    state = msgspec.structs.replace(snapshot(running("a")), recent_steps=steps)
    writer.write(msgspec.msgpack.encode(state))


async def learn(writer: SnapshotWriter, live: LiveStepTime, seconds: float) -> list[StepTimeModel]:
    """Let a learner run; the models that it told of."""
    told: list[StepTimeModel] = []

    async def apply(model: StepTimeModel) -> None:
        told.append(model)

    engine_id = writer.path.name.removeprefix("astrolabe-").removesuffix(".snapshot")
    source = PluginStateSource(f"shm:{engine_id}")
    learner = StepTimeLearner(source, live, MODEL, apply, time.monotonic)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(learner.run(), seconds)
    return told


def test_a_slower_engine_is_followed(writer: SnapshotWriter) -> None:
    """An engine that takes three times as long as its data sheet says."""
    prior = RooflineStepTime(MODEL, find_gpu("A30"))
    live = LiveStepTime(prior, "roofline")
    expected_s = 3 * prior.step_s(DECODES)
    publish(writer, records(1, 64, expected_s))
    (told,) = asyncio.run(learn(writer, live, 0.1))
    assert told is live.model
    assert live.is_learnt
    assert live.step_s(DECODES) == pytest.approx(expected_s, rel=0.1)


def test_without_steps_nothing_changes(writer: SnapshotWriter) -> None:
    """The data sheet stays in use as long as the engine shows no steps."""
    live = LiveStepTime(RooflineStepTime(MODEL, find_gpu("A30")), "roofline")
    publish(writer, [])
    assert asyncio.run(learn(writer, live, 0.1)) == []
    assert not live.is_learnt


def test_an_engine_that_is_not_there_yet_is_waited_for(writer: SnapshotWriter) -> None:
    """Reading is tried again; nothing ends."""
    live = LiveStepTime(RooflineStepTime(MODEL, find_gpu("A30")), "roofline")
    assert asyncio.run(learn(writer, live, 0.1)) == []
