"""The online estimator with real ONNX models: what it answers, when, and what it withstands."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import pytest

from length_estimation.online.cache import question_key
from length_estimation.online.errors import InvalidQuestion
from length_estimation.online.estimator import OnlineEstimator
from tests.length_estimation.estimators import asking, running
from tests.length_estimation.tiny_model import (
    INPUT_CONFIG,
    LEVELS,
    NORMAL,
    mean_tokens,
    median_tokens,
    write_model_folder,
)
from wire.length import LengthEstimate, LengthQuestion
from wire.prediction import MAX_TOKENS

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model folder."""
    return write_model_folder(tmp_path_factory.mktemp("tiny"))


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
    """Only the ends of a text are ever looked at; all of this one is a thousand pages."""
    page, megabyte = "how are you? " * 50, "how are you? " * 80_000

    async def best_s(estimator: OnlineEstimator, text: str) -> float:
        took_s = []
        for index in range(10):
            started_s = time.perf_counter()
            await estimator.estimate(asking(f"{index} {text}"))
            took_s.append(time.perf_counter() - started_s)
        return min(took_s)

    async with running(folder) as estimator:
        assert await best_s(estimator, megabyte) < 3 * await best_s(estimator, page) + 0.005


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
