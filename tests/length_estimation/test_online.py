"""The online estimator with real ONNX models: what it answers, when, and what it withstands."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from length_estimation.model_folder import ModelFolderError
from length_estimation.online.cache import question_key
from length_estimation.online.errors import InvalidQuestion
from length_estimation.online.estimator import OnlineEstimator
from tests.length_estimation.tiny_model import (
    INPUT_CONFIG,
    LEVELS,
    LONGEST_PROMPT,
    MODELS,
    NORMAL,
    mean_tokens,
    median_tokens,
    write_model_folder,
)
from wire.length import LengthEstimate, LengthQuestion
from wire.prediction import MAX_TOKENS

pytestmark = pytest.mark.anyio

PATIENCE_S = 5.0
"""The deadline where a test is not about it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model folder."""
    return write_model_folder(tmp_path_factory.mktemp("tiny"))


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[OnlineEstimator]:
    """An estimator that serves."""
    estimator = OnlineEstimator(folder, **({"deadline_s": PATIENCE_S} | settings))
    await estimator.start()
    try:
        yield estimator
    finally:
        await estimator.close()


def asking(text: str = "how are you?", **fields: Any) -> LengthQuestion:
    """A question."""
    return LengthQuestion(text=text, **({"num_prompt_tokens": 20} | fields))


def check_sound(estimate: LengthEstimate | None, question: LengthQuestion) -> LengthEstimate:
    """It is a distribution within its bounds."""
    assert estimate is not None
    tokens = list(estimate.quantiles.values())
    most = MAX_TOKENS if question.max_tokens is None else max(question.max_tokens, 1)
    assert list(estimate.quantiles) == [f"{level:g}" for level in LEVELS]
    assert tokens == sorted(tokens)
    assert all(1 <= value <= most for value in [*tokens, estimate.mean_tokens])
    return estimate


async def test_the_estimate_is_what_the_model_says(folder: Path) -> None:
    """Before any observation to the last digits of its float32."""
    async with running(folder) as estimator:
        for num_prompt_tokens in (0, 7, 500):
            question = asking(num_prompt_tokens=num_prompt_tokens)
            estimate = check_sound(await estimator.try_estimate(question), question)
            assert estimate.source == "model"
            assert estimate.mean_tokens == pytest.approx(mean_tokens(question), rel=1e-5)
            for key, normal in zip(estimate.quantiles, NORMAL, strict=True):
                wanted = median_tokens(question) * math.exp(0.7 * normal)
                assert estimate.quantiles[key] == pytest.approx(wanted, rel=1e-5)


async def test_estimates_stay_within_max_tokens(folder: Path) -> None:
    """The mean too: hardly any answer ends before so small a bound."""
    async with running(folder) as estimator:
        question = asking(max_tokens=30)
        estimate = check_sound(await estimator.try_estimate(question), question)
        assert estimate.quantiles["0.95"] == pytest.approx(30)
        assert 24 < estimate.mean_tokens < 30


async def test_a_question_seen_before_is_answered_from_the_cache(folder: Path) -> None:
    """The model runs once; a question that differs in anything it reads is another one."""
    question = asking()
    others = [
        asking("how is it?"),
        asking(context="you"),
        asking(num_prompt_tokens=21),
        asking(max_tokens=900),
        asking(model="other"),
        asking(earlier_answer_characters=[10]),
    ]
    async with running(folder) as estimator:
        first = await estimator.try_estimate(question)
        assert await estimator.try_estimate(asking()) == first
        assert estimator.figures().from_cache == 1
        for other in others:
            await estimator.try_estimate(other)
        figures = estimator.figures()
        assert (figures.from_model, figures.from_cache) == (1 + len(others), 1)


async def test_one_question_asked_by_many_at_once_is_one_inference(folder: Path) -> None:
    """They share what is under way."""
    async with running(folder) as estimator:
        answers = await asyncio.gather(*(estimator.try_estimate(asking()) for _ in range(20)))
        assert len({answer.mean_tokens for answer in answers if answer}) == 1
        assert None not in answers
        assert estimator.figures().num_batched_questions == 1


async def test_the_cache_is_bounded(folder: Path) -> None:
    """The question not asked for the longest is forgotten, and can teach no more."""
    async with running(folder, cache_size=2) as estimator:
        for text in ("a", "b", "a", "c"):
            await estimator.try_estimate(asking(text))
        assert not estimator.observe(asking("b"), 10)
        assert estimator.observe(asking("a"), 10)
        assert estimator.figures().not_observed == {"forgotten": 1}


def test_keys_see_all_that_the_model_reads_of_long_texts() -> None:
    """Both ends and the length count; the middle of a long text does not."""
    long = "a" * 100_000
    keys = [
        question_key(asking(text), INPUT_CONFIG.window)
        for text in (long, "b" + long[1:], long[1:] + "b", long + "a")
    ]
    assert len(set(keys)) == 4
    middle = long[:50_000] + "b" + long[50_001:]
    assert question_key(asking(middle), INPUT_CONFIG.window) == keys[0]
    # Neighbouring fields do not run into one another.
    assert question_key(asking("b", context="a"), 64) != question_key(asking("ab"), 64)


async def test_observed_lengths_correct_later_estimates_of_that_model_only(folder: Path) -> None:
    """A model that answers three times as long is known after forty answers."""
    questions = [asking(f"how {index}", model="verbose") for index in range(40)]
    async with running(folder) as estimator:
        for question in questions:
            await estimator.try_estimate(question)
            assert estimator.observe(question, round(3 * median_tokens(question)))
        verbose = await estimator.estimate(asking("new", model="verbose"))
        assert verbose.source == "model_recalibrated"
        assert verbose.quantiles["0.5"] == pytest.approx(3 * median_tokens(questions[0]), rel=0.1)
        assert (await estimator.estimate(asking("new", model="other"))).source == "model"
        figures = estimator.figures()
        assert figures.num_observed == 40
        assert figures.recalibrations["verbose"].num_observations == 40
        assert 2.4 < figures.recalibrations["verbose"].factor < 3.1


async def test_the_mean_moves_with_the_quantiles(folder: Path) -> None:
    """Answers that are all equal have that mean, whatever tails the model's own mean has."""
    async with running(folder) as estimator:
        for index in range(300):
            question = asking(f"how {index}")
            await estimator.try_estimate(question)
            estimator.observe(question, 100)
        estimate = await estimator.estimate(asking("new"))
        assert estimate.quantiles["0.5"] == pytest.approx(100, rel=0.02)
        assert estimate.mean_tokens == pytest.approx(100, rel=0.05)


async def test_answers_cut_at_max_tokens_are_not_taken_for_short_ones(folder: Path) -> None:
    """All answers are cut at 10 tokens; other questions are still expected to get long answers."""
    async with running(folder) as estimator:
        for index in range(100):
            question = asking(f"how {index}", max_tokens=10)
            await estimator.try_estimate(question)
            assert estimator.observe(question, 10)
        estimate = await estimator.estimate(asking("new"))
        assert estimate.quantiles["0.5"] == pytest.approx(median_tokens(asking()), rel=0.05)


@pytest.mark.parametrize("num_output_tokens", [-1, MAX_TOKENS + 1, 10**30])
async def test_absurd_outcomes_teach_nothing(folder: Path, num_output_tokens: int) -> None:
    """They are counted."""
    async with running(folder) as estimator:
        await estimator.try_estimate(asking())
        assert not estimator.observe(asking(), num_output_tokens)
        assert estimator.figures().not_observed == {"invalid": 1}
        assert (await estimator.estimate(asking())).source == "model"


TEXTS = {
    "empty": "",
    "spaces": " \n\t" * 50,
    "a megabyte": "how are you? " * 80_000,
    "a megabyte without a space": "x" * 1_000_000,
    "lone surrogates": "how \ud800 are \udfff you",
    "emoji": "👩‍👩‍👧‍👦🤷🏽‍♀️" * 100,
    "Chinese": "你好吗。请写一首诗。" * 100,
    "code": "for (int i = 0; i < n; i++) { a[i] = b[i] << 3; }\n" * 100,
    "control characters": "".join(map(chr, range(32))) + "\x7f\x00",
}


@pytest.mark.parametrize("name", TEXTS)
async def test_any_text_gets_an_estimate(folder: Path, name: str) -> None:
    """As text and as context, and it can be learnt from."""
    question = asking(TEXTS[name], context=TEXTS[name], model=TEXTS[name][:40])
    async with running(folder) as estimator:
        check_sound(await estimator.try_estimate(question), question)
        assert estimator.observe(question, 50)
        estimate = check_sound(await estimator.try_estimate(question), question)
        assert estimate.source == "model_recalibrated"


async def test_a_megabyte_takes_hardly_longer_than_a_page(folder: Path) -> None:
    """Less than two milliseconds more; only the ends of a text are ever looked at."""
    page, megabyte = "how are you? " * 50, "how are you? " * 80_000

    async def best_s(estimator: OnlineEstimator, text: str) -> float:
        took_s = []
        for index in range(10):
            started_s = time.perf_counter()
            await estimator.estimate(asking(f"{index} {text}"))
            took_s.append(time.perf_counter() - started_s)
        return min(took_s)

    async with running(folder) as estimator:
        assert await best_s(estimator, megabyte) < await best_s(estimator, page) + 0.002


@pytest.mark.parametrize("max_tokens", [None, 0, 1, 10**9, 2**63 - 1])
async def test_any_bound_gets_an_estimate(folder: Path, max_tokens: int | None) -> None:
    """Huge ones bound nothing."""
    question = asking(max_tokens=max_tokens)
    async with running(folder) as estimator:
        check_sound(await estimator.try_estimate(question), question)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_prompt_tokens", -1),
        ("max_tokens", -5),
        ("max_tokens", 10**400),
        ("earlier_answer_characters", [3, -2]),
    ],
)
async def test_numbers_that_no_request_has_are_refused(
    folder: Path, field: str, value: Any
) -> None:
    """The error names field and value; whoever only tries gets None, and it is counted."""
    async with running(folder) as estimator:
        wrong = value[-1] if isinstance(value, list) else value
        with pytest.raises(InvalidQuestion, match=rf"{field} must be .* \(got {wrong}\)"):
            await estimator.estimate(asking(**{field: value}))
        assert await estimator.try_estimate(asking(**{field: value})) is None
        assert not estimator.observe(asking(**{field: value}), 10)
        assert estimator.figures().not_estimated == {"invalid": 2}


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
        ends_s = time.perf_counter() + 10
        while await estimator.try_estimate(asking()) is None:
            assert time.perf_counter() < ends_s
            await asyncio.sleep(0.01)
        assert await estimator.try_estimate(asking()) is not None
        assert estimator.figures().from_cache >= 1
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


async def test_the_event_loop_never_waits_for_a_slow_model(slow_folder: Path) -> None:
    """Two hundred requests of a gateway, 5 ms apart at most: each has its answer or fallback by the
    deadline, and nothing else in the process is held up."""
    longest_gap_s, deadline_s = 0.0, 0.02

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

    async with running(slow_folder, deadline_s=deadline_s, max_waiting=8) as estimator:
        watching = asyncio.ensure_future(watch())
        asked = []
        for number in range(200):
            asked.append(asyncio.ensure_future(ask(estimator, number)))
            await asyncio.sleep(0.002)
        took_s = await asyncio.gather(*asked)
        watching.cancel()
        figures = estimator.figures()
        assert max(took_s) < deadline_s + 0.2
        assert longest_gap_s < 0.2
        assert sum(figures.not_estimated.values()) + figures.from_model == 200
        assert figures.not_estimated["deadline"] + figures.not_estimated["overload"] > 20


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
        answers = await asyncio.wait_for(asyncio.gather(*asked), timeout=10)
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
