"""Reads questions off request bodies and checks what types cannot say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from predictor.errors import InvalidQuestion
from predictor.overlay import SimulatedSequence, newcomer
from predictor.remaining import mean_of_quantiles
from wire.prediction import (
    MAX_PRIORITY,
    MAX_TOKENS,
    PredictBatchRequest,
    PredictRequest,
    SentRequest,
)
from wire.snapshot import EngineLimits

_Body = TypeVar("_Body")

MAX_SENT = 100_000


class SingleQuestion(PredictRequest, kw_only=True, omit_defaults=True):
    """The body of ``POST /predict``: one question and, if known, what the unit was sent before."""

    sent: list[SentRequest] = msgspec.field(default_factory=list)


def read_single(body: bytes) -> PredictBatchRequest:
    """A body of ``POST /predict`` as a batch of one. Raises InvalidQuestion."""
    question = _decode(body, SingleQuestion)
    batch = PredictBatchRequest(requests=[question], sent=question.sent)
    _check_question(question, "")
    _check_sent(batch.sent)
    return batch


def read_batch(body: bytes, max_questions: int) -> PredictBatchRequest:
    """A body of ``POST /predict/batch``. Raises InvalidQuestion."""
    batch = _decode(body, PredictBatchRequest)
    if len(batch.requests) > max_questions:
        raise InvalidQuestion(
            f"requests: at most {max_questions} questions in a batch (got {len(batch.requests)})",
            "requests",
        )
    for index, question in enumerate(batch.requests):
        _check_question(question, f"requests[{index}].")
    _check_sent(batch.sent)
    return batch


def to_newcomer(question: PredictRequest, limits: EngineLimits) -> SimulatedSequence:
    """The sequence that a question is about, as long as its expected output."""
    return newcomer(
        question.request_id,
        question.num_prompt_tokens,
        _expected_output(question),
        limits,
        question.max_tokens,
        question.priority,
    )


def _expected_output(question: PredictRequest) -> float:
    """The given mean, or the mean of the given quantiles."""
    if question.expected_output_tokens is not None:
        return question.expected_output_tokens
    quantiles = question.quantiles or {}
    return mean_of_quantiles({float(p): tokens for p, tokens in quantiles.items()})


def _decode(body: bytes, type_: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise InvalidQuestion(f"body: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidQuestion(f"body: not JSON: {error}") from error


def _check_question(question: PredictRequest, path: str) -> None:
    _check_range(path + "num_prompt_tokens", question.num_prompt_tokens, 1, MAX_TOKENS)
    _check_range(path + "priority", question.priority, -MAX_PRIORITY, MAX_PRIORITY)
    if question.max_tokens is not None:
        _check_range(path + "max_tokens", question.max_tokens, 1, MAX_TOKENS)
    expected = question.expected_output_tokens
    if (expected is None) == (question.quantiles is None):
        given = "neither" if expected is None else "both"
        raise InvalidQuestion(
            f"{path}expected_output_tokens, {path}quantiles: exactly one is needed (got {given})",
            path + "expected_output_tokens",
        )
    if expected is not None:
        _check_range(path + "expected_output_tokens", expected, 0, MAX_TOKENS)
    if question.quantiles is not None:
        _check_quantiles(path + "quantiles", question.quantiles)


def _check_quantiles(path: str, quantiles: dict[str, float]) -> None:
    if not quantiles:
        raise InvalidQuestion(f"{path}: at least one quantile is needed (got {{}})", path)
    points = []
    for key, tokens in quantiles.items():
        try:
            probability = float(key)
        except ValueError:
            raise InvalidQuestion(f"{path}: {key!r} is not a probability", path) from None
        _check_range(f"{path}: probability", probability, 0, 1)
        _check_range(f"{path}.{key}", tokens, 0, MAX_TOKENS)
        points.append((probability, tokens))
    points.sort()
    for (_, lower), (probability, higher) in itertools.pairwise(points):
        if higher < lower:
            raise InvalidQuestion(
                f"{path}: must not fall (got {higher} at {probability} after {lower})", path
            )


def _check_sent(sent: Sequence[SentRequest]) -> None:
    _check_range("sent: length", len(sent), 0, MAX_SENT)
    for index, request in enumerate(sent):
        path = f"sent[{index}]."
        _check_range(path + "num_prompt_tokens", request.num_prompt_tokens, 1, MAX_TOKENS)
        expected = request.expected_output_tokens
        _check_range(path + "expected_output_tokens", expected, 0, MAX_TOKENS)
        _check_range(path + "sent_age_ms", request.sent_age_ms, -math.inf, math.inf)
        _check_range(path + "priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    """Refuses NaN as well."""
    if not least <= value <= most:
        raise InvalidQuestion(f"{name}: must be from {least} to {most} (got {value})", name)
