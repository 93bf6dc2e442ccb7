"""What the online estimator withstands: models that fail, are slow, damaged, or none."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from length_estimation.model_folder import ModelFolderError
from length_estimation.online.estimator import OnlineEstimator
from tests.length_estimation.estimators import asking, running
from tests.length_estimation.tiny_model import (
    LONGEST_PROMPT,
    MODELS,
    NORMAL,
    write_model_folder,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model folder."""
    return write_model_folder(tmp_path_factory.mktemp("tiny"))


async def test_failures_are_counted_each_and_logged_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model whose run ends with an error, or gives NaN; sound questions do not suffer."""
    async with running(folder) as estimator:
        for index in range(5):
            failing = [
                asking(f"error {index}", model=MODELS[-1]),
                asking(f"nan {index}", num_prompt_tokens=LONGEST_PROMPT * 2),
            ]
            for question in failing:
                assert await estimator.try_estimate(question) is None
            assert await estimator.try_estimate(asking(f"sound {index}")) is not None
        assert estimator.figures().not_estimated == {"failed": 10}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "InvalidArgument" in messages[0]
    assert "not finite" in messages[1]


async def test_a_nan_fails_only_its_own_question_of_a_batch(folder: Path) -> None:
    """All of one moment, so that they share a batch."""
    questions = [asking(f"{n}", num_prompt_tokens=n) for n in (10, 2 * LONGEST_PROMPT, 30)]
    async with running(folder) as estimator:
        await estimator.estimate(asking())  # so that the time of a question is known
        answers = await asyncio.gather(*map(estimator.try_estimate, questions))
        assert [answer is None for answer in answers] == [False, True, False]
        assert estimator.figures().num_batches == 2


@pytest.fixture(scope="module")
def slow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes 50 ms or more for a question."""
    return write_model_folder(tmp_path_factory.mktemp("slow"), num_slow_rounds=1500)


async def test_late_answers_are_missed_counted_and_remembered(slow_folder: Path) -> None:
    """The deadline is kept; the same question is answered from the cache once the model was."""
    async with running(slow_folder, deadline_s=0.005) as estimator:
        assert await estimator.try_estimate(asking()) is None
        assert estimator.figures().not_estimated == {"deadline": 1}
        ends_s = time.perf_counter() + 60
        while not estimator.figures().from_cache:
            assert time.perf_counter() < ends_s
            await asyncio.sleep(0.01)
            answer = await estimator.try_estimate(asking())
        assert answer is not None
        assert estimator.figures().num_batched_questions == 1
        assert estimator.observe(asking(), 40)


async def test_of_a_burst_as_many_are_answered_as_there_is_time_for(slow_folder: Path) -> None:
    """Sixteen at once: a single large batch would answer none by the deadline."""
    async with running(slow_folder) as patient:
        started_s = time.perf_counter()
        for number in range(3):
            await patient.estimate(asking(f"how {number}"))
        question_s = (time.perf_counter() - started_s) / 3
    async with running(slow_folder, deadline_s=6 * question_s) as estimator:
        await estimator.estimate(asking())
        questions = [asking(f"how {number}") for number in range(16)]
        answers = await asyncio.gather(*map(estimator.try_estimate, questions))
        assert any(answers)


async def test_the_event_loop_never_waits_for_a_slow_model(tmp_path: Path) -> None:
    """Two hundred requests of a gateway, milliseconds apart: each has its fallback by the deadline,
    long before the model has answered, and nothing else in the process is held up."""
    folder = write_model_folder(tmp_path, num_slow_rounds=30_000)
    longest_gap_s, deadline_s = 0.0, 0.02
    async with running(folder) as patient:
        started_s = time.perf_counter()
        await patient.estimate(asking())
        question_s = time.perf_counter() - started_s

    async def watch() -> None:
        nonlocal longest_gap_s
        last_s = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now_s = time.perf_counter()
            longest_gap_s, last_s = max(longest_gap_s, now_s - last_s), now_s

    async def ask(estimator: OnlineEstimator, number: int) -> float:
        started_s = time.perf_counter()
        await estimator.try_estimate(asking(f"how {number}"))
        return time.perf_counter() - started_s

    async with running(folder, deadline_s=deadline_s, max_waiting=8) as estimator:
        watching = asyncio.ensure_future(watch())
        asked = []
        for number in range(200):
            asked.append(asyncio.ensure_future(ask(estimator, number)))
            await asyncio.sleep(0.002)
        took_s = await asyncio.gather(*asked)
        watching.cancel()
        figures = estimator.figures()
        assert max(took_s) < deadline_s + question_s / 2
        assert longest_gap_s < question_s / 2
        missed = figures.not_estimated
        assert missed["deadline"] + missed.get("overload", 0) + figures.from_model == 200
        assert figures.from_model < 180


async def test_whoever_gives_up_stops_nobody_else(slow_folder: Path) -> None:
    """A client leaves; another that asked the same gets its answer."""
    async with running(slow_folder) as estimator:
        leaving = asyncio.ensure_future(estimator.try_estimate(asking()))
        staying = asyncio.ensure_future(estimator.try_estimate(asking()))
        await asyncio.sleep(0.005)
        leaving.cancel()
        assert await staying is not None


async def test_closing_leaves_nobody_waiting(slow_folder: Path) -> None:
    """Neither those whose inference runs nor those that wait for it, nor who comes later."""
    async with running(slow_folder, max_batch=1) as estimator:
        asked = [asyncio.ensure_future(estimator.try_estimate(asking(f"{n}"))) for n in range(4)]
        await asyncio.sleep(0.005)
        await estimator.close()
        answers = await asyncio.wait_for(asyncio.gather(*asked), timeout=60)
        assert [answer is None for answer in answers].count(False) <= 1
        assert await estimator.try_estimate(asking("later")) is None


def _flip_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "model missing": ("model.onnx", lambda _: None, r"model\.onnx cannot be read: No such file"),
    "model cut": ("model.onnx", lambda content: content[:-100], r"model\.onnx is damaged"),
    "model bit-flipped": ("model.onnx", _flip_bit, r"model\.onnx is damaged"),
    "tokenizer missing": ("tokenizer.json", lambda _: None, r"tokenizer\.json cannot be read"),
    "tokenizer cut": ("tokenizer.json", lambda content: content[:50], r"tokenizer\.json is dam"),
    "config missing": ("config.json", lambda _: None, r"config\.json cannot be read: No such"),
    "config cut": ("config.json", lambda content: content[:50], r"config\.json cannot be read"),
    "config not UTF-8": ("config.json", lambda _: b"\xff\xfe", r"config\.json cannot be read"),
    "config of a later format": (
        "config.json",
        lambda content: msgspec.json.encode({"format": 2, "brain": "large"}),
        r"config\.json: format 2 is not 1",
    ),
    "wrong digest": (
        "config.json",
        lambda content: content.replace(b'"model.onnx":"', b'"model.onnx":"0'),
        r"model\.onnx is damaged: its sha256 is",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_told_at_the_start(tmp_path: Path, name: str) -> None:
    """By the file's name and what is wrong with it."""
    file, damage, message = DAMAGES[name]
    folder = write_model_folder(tmp_path)
    content = damage((folder / file).read_bytes())
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelFolderError, match=message):
        OnlineEstimator(folder)


@pytest.mark.parametrize(
    ("normal", "message"),
    [
        (NORMAL[:-1], "outputs have a wrong shape"),
        ([-value for value in NORMAL], "quantiles do not rise"),
        ([*NORMAL[:-1], math.nan], "outputs are not finite"),
    ],
)
def test_a_model_of_something_else_is_told_at_the_start(
    tmp_path: Path, normal: list[float], message: str
) -> None:
    """It is asked a first question."""
    with pytest.raises(ModelFolderError, match=rf"model\.onnx fails at its first .*{message}"):
        OnlineEstimator(write_model_folder(tmp_path, normal=normal))


def test_what_is_no_model_is_told_at_the_start(tmp_path: Path) -> None:
    """Though its digest is right."""
    folder = write_model_folder(tmp_path, model=b"no model at all")
    with pytest.raises(ModelFolderError, match=r"model\.onnx cannot be used by ONNX Runtime"):
        OnlineEstimator(folder)
