"""What simple methods learn from requests whose lengths are known."""

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from length_estimation.accuracy import accuracy
from length_estimation.baselines import TooFewExamples, make_baselines
from length_estimation.examples import Example

LEVELS = [0.1, 0.5, 0.9]
FILLERS = ("about ships", "about trees", "on history", "for children", "in verse", "with love")


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    """Threads that wait for one another on busy cores would take most of the time."""
    with threadpool_limits(1):
        yield


def example(text: str, num_output_tokens: int) -> Example:
    """A first turn."""
    return Example(
        conversation=text,
        turn=0,
        text=text,
        context="",
        num_prompt_tokens=len(text.split()),
        earlier_answer_characters=[],
        max_tokens=None,
        model="",
        num_output_tokens=num_output_tokens,
    )


def essays_and_answers(count: int, seed: int) -> list[Example]:
    """Essays get about 800 tokens, answers in a word about 20, both within a tenth."""
    rng = random.Random(seed)
    kinds = (("write an essay", 800), ("answer in a word", 20))
    drawn = [(*rng.choice(kinds), rng.choice(FILLERS), rng.gauss(0, 0.1)) for _ in range(count)]
    return [
        example(f"{verb} {filler}", round(tokens * math.exp(noise)))
        for verb, tokens, filler, noise in drawn
    ]


TRAIN, TEST = essays_and_answers(200, seed=0), essays_and_answers(100, seed=1)


@pytest.mark.parametrize("name", ["tfidf_boosting", "tfidf_ridge"])
def test_text_tells_the_length(name: str) -> None:
    """Where the words decide, both regressions find the length, its order and its spread."""
    baseline = make_baselines(LEVELS)[name]
    baseline.fit(TRAIN)
    predictions = baseline.predict([one.question() for one in TEST])
    found = accuracy(np.array([one.num_output_tokens for one in TEST]), predictions, LEVELS)
    assert found.mape < 0.2
    assert found.kendall_tau > 0.4
    assert found.r2 > 0.9
    assert 0.6 < found.coverage_80 < 1
    assert (np.diff(predictions.log_quantiles) > 0).all()


def test_constants() -> None:
    """The mean and the median of the training answers, each with the answers' quantiles."""
    train = [example(f"prompt {index}", tokens) for index, tokens in enumerate([1] * 8 + [992] * 3)]
    questions = [one.question() for one in TEST[:2]]
    for name, tokens in (("mean", 2984 / 11), ("median", 1)):
        baseline = make_baselines(LEVELS)[name]
        baseline.fit(train)
        predictions = baseline.predict(questions)
        assert predictions.tokens == pytest.approx([tokens] * 2)
        assert np.exp(predictions.log_quantiles) == pytest.approx(np.array([[1, 1, 992]] * 2))


@pytest.mark.parametrize("name", make_baselines(LEVELS))
def test_too_few_examples(name: str) -> None:
    """Nine examples are refused, and the error says how many there must be."""
    with pytest.raises(TooFewExamples, match=r"9 first turns .* needs 10"):
        make_baselines(LEVELS)[name].fit(TRAIN[:9])


def test_texts_without_words() -> None:
    """A regression on words says that there are none."""
    with pytest.raises(TooFewExamples, match="no words"):
        make_baselines(LEVELS)["tfidf_ridge"].fit([example("?", 10)] * 20)


def test_a_text_of_unknown_words() -> None:
    """An empty prompt and one of unknown words get a finite estimate."""
    baseline = make_baselines(LEVELS)["tfidf_boosting"]
    baseline.fit(TRAIN)
    questions = [example(text, 1).question() for text in ("", "天气 🚀")]
    assert np.isfinite(baseline.predict(questions).log_quantiles).all()
