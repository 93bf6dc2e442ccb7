"""Holds methods that predict output lengths against answers whose lengths are known."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from length_estimation.accuracy import Accuracy, Predictions, accuracy
from length_estimation.examples import Example
from wire.length import LengthQuestion

BATCH = 64
"""Questions at a time."""
NUM_SINGLE, NUM_BATCHES = 100, 5
"""How often one question, and a batch of them, is timed."""
SHORT_PROMPT_TOKENS = 64
MIN_EXAMPLES_OF_KIND = 20
"""Figures of fewer examples would be noise."""
KINDS: Mapping[str, Callable[[Example], bool]] = {
    "first turns": lambda example: example.turn == 0,
    "later turns": lambda example: example.turn > 0,
    f"prompts up to {SHORT_PROMPT_TOKENS} tokens": (
        lambda example: example.num_prompt_tokens <= SHORT_PROMPT_TOKENS
    ),
    f"prompts over {SHORT_PROMPT_TOKENS} tokens": (
        lambda example: example.num_prompt_tokens > SHORT_PROMPT_TOKENS
    ),
}
"""Kinds of requests that are looked at apart."""


class Method(Protocol):
    """Anything that predicts output lengths."""

    def predict(self, questions: Sequence[LengthQuestion]) -> Predictions:
        """One prediction a question, in their order."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a method takes."""

    single_ms_p50: float
    """Median time for one question that comes alone, milliseconds."""
    batch64_per_s: float
    """Questions a second, in batches of 64."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was found out about one method."""

    predictions: Predictions
    overall: Accuracy
    by_kind: dict[str, Accuracy]
    """Of ``KINDS``, those that have enough examples, but not all."""
    latency: Latency


def evaluate(
    method: Method,
    examples: Sequence[Example],
    levels: Sequence[float],
    *,
    clock: Callable[[], float],
    progress: Callable[[int], object] = lambda count: None,
) -> Evaluation:
    """Predict all examples and compare.

    Args:
        clock: seconds.
        progress: told of every batch how many examples it had.
    """
    questions = [example.question() for example in examples]
    true = np.array([example.num_output_tokens for example in examples])
    predictions = _predict(method, questions, progress)
    by_kind = {
        kind: accuracy(true[rows], _of(predictions, rows), levels)
        for kind, rows in rows_by_kind(examples).items()
    }
    return Evaluation(
        predictions=predictions,
        overall=accuracy(true, predictions, levels),
        by_kind=by_kind,
        latency=measure_latency(method, questions, clock),
    )


def rows_by_kind(examples: Sequence[Example]) -> dict[str, NDArray[np.bool_]]:
    """Which examples are of which kind, for kinds that have enough of them, but not all."""
    found = {kind: np.array([*map(is_of, examples)]) for kind, is_of in KINDS.items()}
    return {
        kind: rows
        for kind, rows in found.items()
        if MIN_EXAMPLES_OF_KIND <= rows.sum() < len(examples)
    }


def measure_latency(
    method: Method, questions: Sequence[LengthQuestion], clock: Callable[[], float]
) -> Latency:
    """Time single questions and batches, as they come; few questions are asked repeatedly."""
    asked = itertools.cycle(questions)
    single = [_time_s(method, asked, 1, clock) for _ in range(NUM_SINGLE)]
    batches = [_time_s(method, asked, BATCH, clock) for _ in range(NUM_BATCHES)]
    return Latency(
        single_ms_p50=statistics.median(single) * 1e3,
        batch64_per_s=BATCH * NUM_BATCHES / sum(batches),
    )


def _time_s(
    method: Method,
    asked: itertools.cycle[LengthQuestion],
    count: int,
    clock: Callable[[], float],
) -> float:
    questions = list(itertools.islice(asked, count))
    started_s = clock()
    method.predict(questions)
    return clock() - started_s


def _predict(
    method: Method, questions: Sequence[LengthQuestion], progress: Callable[[int], object]
) -> Predictions:
    parts = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        parts.append(method.predict(batch))
        progress(len(batch))
    return Predictions(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.log_quantiles for part in parts]),
    )


def _of(predictions: Predictions, rows: NDArray[np.bool_]) -> Predictions:
    return Predictions(predictions.tokens[rows], predictions.log_quantiles[rows])
