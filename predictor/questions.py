"""Reads questions off request bodies and checks what types cannot say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from predictor.errors import InvalidQuestion
from predictor.overlay import SimulatedSequence, newcomer
from wire.prediction import (
    MAX_PRIORITY,
    MAX_TOKENS,
    BacklogRequest,
    PredictBatchRequest,
    PredictRequest,
    SentRequest,
    Slo,
)
from wire.snapshot import EngineLimits

_Item = TypeVar("_Item")
_Body = TypeVar("_Body")

MAX_SENT = 100_000
MAX_QUANTILES = 100
MAX_MS = 1e12


class SingleQuestion(PredictRequest, kw_only=True, omit_defaults=True):
    """The body of ``POST /predict``: one question and, if known, what the unit was sent before."""

    sent: list[SentRequest] | None = None


def _reader(type_: type[_Body]) -> Callable[[bytes], _Body]:
    decode = msgspec.json.Decoder(type_).decode

    def read(body: bytes) -> _Body:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            raise InvalidQuestion(f"body: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidQuestion(f"body: not JSON: {error}") from error

    return read


_decode_single = _reader(SingleQuestion)
_decode_batch = _reader(PredictBatchRequest)
_decode_backlog = _reader(BacklogRequest)


def read_single(body: bytes) -> PredictBatchRequest:
    """A body of ``POST /predict`` as a batch of one. Raises InvalidQuestion."""
    question = _decode_single(body)
    _check_question(question)
    return PredictBatchRequest(requests=[question], sent=question.sent)


def read_batch(body: bytes, max_questions: int) -> PredictBatchRequest:
    """A body of ``POST /predict/batch``. Raises InvalidQuestion."""
    batch = _decode_batch(body)
    _check_number(batch.requests, max_questions)
    _check_each("requests", batch.requests, _check_question)
    return batch


def read_backlog(body: bytes, max_requests: int) -> BacklogRequest:
    """A body of ``POST /predict/backlog``. Raises InvalidQuestion."""
    backlog = _decode_backlog(body)
    _check_number(backlog.requests, max_requests)
    if backlog.max_num_seqs is not None:
        _check_range("max_num_seqs", backlog.max_num_seqs, 1, MAX_TOKENS)
    _check_each("requests", backlog.requests, _check_question)
    return backlog


def check_sent(sent: Sequence[SentRequest]) -> None:
    """Left to whoever looks at the list, which seldom differs from the last one.

    Raises:
        InvalidQuestion: something in it cannot be.
    """
    _check_range("sent: length", len(sent), 0, MAX_SENT)
    _check_each("sent", sent, _check_sent_request)


def to_newcomer(question: PredictRequest, limits: EngineLimits) -> SimulatedSequence:
    """The sequence that a question is about."""
    return newcomer(
        question.request_id,
        question.num_prompt_tokens,
        question.expected_output_tokens,
        limits,
        question.max_tokens,
        question.priority,
        question.num_cached_tokens,
        question.quantiles,
        question.slo,
    )


def _check_number(questions: Sequence[PredictRequest], most: int) -> None:
    if len(questions) > most:
        raise InvalidQuestion(
            f"requests: at most {most} questions in a call (got {len(questions)})", "requests"
        )


def _check_each(name: str, items: Sequence[_Item], check: Callable[[_Item], None]) -> None:
    """The path is put in front only where there is an error to tell."""
    index = 0
    try:
        for index, item in enumerate(items):  # noqa: B007  # named in the error
            check(item)
    except InvalidQuestion as error:
        path = f"{name}[{index}]."
        raise InvalidQuestion(f"{path}{error}", f"{path}{error.param}") from None


def _check_question(question: PredictRequest) -> None:
    _check_range("num_prompt_tokens", question.num_prompt_tokens, 1, MAX_TOKENS)
    _check_range("num_cached_tokens", question.num_cached_tokens, 0, MAX_TOKENS)
    _check_range("priority", question.priority, -MAX_PRIORITY, MAX_PRIORITY)
    if question.max_tokens is not None:
        _check_range("max_tokens", question.max_tokens, 1, MAX_TOKENS)
    expected = question.expected_output_tokens
    if (expected is None) == (question.quantiles is None):
        given = "neither" if expected is None else "both"
        raise InvalidQuestion(
            f"expected_output_tokens or quantiles: exactly one is needed (got {given})",
            "expected_output_tokens",
        )
    if expected is not None:
        _check_range("expected_output_tokens", expected, 0, MAX_TOKENS)
    if question.quantiles is not None:
        _check_quantiles(question.quantiles)
    if question.slo is not None:
        _check_slo(question.slo)


def _check_sent_request(request: SentRequest) -> None:
    _check_range("num_prompt_tokens", request.num_prompt_tokens, 1, MAX_TOKENS)
    _check_range("expected_output_tokens", request.expected_output_tokens, 0, MAX_TOKENS)
    _check_range("num_output_tokens", request.num_output_tokens, 0, MAX_TOKENS)
    _check_range("num_cached_tokens", request.num_cached_tokens, 0, MAX_TOKENS)
    _check_range("sent_age_ms", request.sent_age_ms, -MAX_MS, MAX_MS)
    _check_range("priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY)
    if request.max_tokens is not None:
        _check_range("max_tokens", request.max_tokens, 1, MAX_TOKENS)
    if request.first_token_age_ms is not None:
        _check_range("first_token_age_ms", request.first_token_age_ms, -MAX_MS, MAX_MS)
    if request.quantiles is not None:
        _check_quantiles(request.quantiles)
    if request.slo is not None:
        _check_slo(request.slo)


def _check_slo(slo: Slo) -> None:
    for name, goal_ms in (("slo.ttft_ms", slo.ttft_ms), ("slo.tpot_ms", slo.tpot_ms)):
        if goal_ms is not None:
            _check_range(name, goal_ms, 0, MAX_MS)


def _check_quantiles(quantiles: Mapping[str, float]) -> None:
    if not 1 <= len(quantiles) <= MAX_QUANTILES:
        raise InvalidQuestion(
            f"quantiles: 1 to {MAX_QUANTILES} are needed (got {len(quantiles)})", "quantiles"
        )
    points = [(_probability(key), tokens) for key, tokens in quantiles.items()]
    points.sort()
    for probability, tokens in points:
        _check_range("quantiles: probability", probability, 0, 1)
        _check_range("quantiles", tokens, 0, MAX_TOKENS)
    for (_, lower), (probability, higher) in itertools.pairwise(points):
        if higher < lower:
            raise InvalidQuestion(
                f"quantiles: must not fall (got {higher} at {probability} after {lower})",
                "quantiles",
            )


def _probability(key: str) -> float:
    try:
        probability = float(key)
    except ValueError:
        probability = math.nan
    if math.isnan(probability):  # which would not sort
        raise InvalidQuestion(f"quantiles: {key!r} is not a probability", "quantiles")
    return probability


def _check_range(name: str, value: float, least: float, most: float) -> None:
    """Refuses NaN as well."""
    if not least <= value <= most:
        raise InvalidQuestion(f"{name}: must be from {least} to {most} (got {value})", name)
