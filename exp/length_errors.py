"""How wrong estimates of output lengths were, by how many answers had been learnt from. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

METHODS = ("raw", "recalibrated", "running_mean")
LOW, MEDIAN, HIGH = "0.1", "0.5", "0.9"


class Answered(msgspec.Struct, kw_only=True, frozen=True):
    """One request of a study: what was expected before it was sent, and what came of it."""

    index: int
    num_learnt_from: int
    """Answers that had ended when it was sent."""
    num_prompt_tokens: int
    num_output_tokens: int
    is_cut: bool
    """It ended at ``max_tokens``."""
    source: str
    """What the gateway's estimate came from."""
    expected: dict[str, dict[str, float]]
    """By method, then by level of the quantile; of a method that knows no distribution, 0.5 is its
    one number."""

    def error_tokens(self, method: str) -> float:
        """Of the median."""
        return abs(self.expected[method][MEDIAN] - self.num_output_tokens)

    def is_within(self, method: str) -> bool | None:
        """Whether the length lay in the interval for 80 %; None where none is known."""
        quantiles = self.expected[method]
        if LOW not in quantiles or HIGH not in quantiles:
            return None
        return quantiles[LOW] <= self.num_output_tokens <= quantiles[HIGH]


class Errors(msgspec.Struct, kw_only=True, frozen=True):
    """Of one method, over some requests."""

    mae: float
    """Mean absolute error, tokens."""
    median_error: float
    """Median absolute error, tokens."""
    median_relative_error: float
    """Median of the absolute error over the observed length."""
    coverage_80: float | None
    """Share of requests in the interval for 80 %; None without one."""


class Window(msgspec.Struct, kw_only=True, frozen=True):
    """Consecutive requests."""

    num_learnt_from: float
    """On average."""
    num_requests: int
    methods: dict[str, Errors]


def windows(answered: Sequence[Answered], size: int, step: int) -> Iterator[Window]:
    """Windows over the requests in the order in which they were sent; the last may be smaller."""
    for start in range(0, max(1, len(answered) - size + step), step):
        if part := answered[start : start + size]:
            yield Window(
                num_learnt_from=statistics.fmean(one.num_learnt_from for one in part),
                num_requests=len(part),
                methods={method: errors(part, method) for method in METHODS},
            )


def errors(answered: Sequence[Answered], method: str) -> Errors:
    """Of at least one request."""
    tokens = [one.error_tokens(method) for one in answered]
    relative = [one.error_tokens(method) / max(1, one.num_output_tokens) for one in answered]
    within = [inside for one in answered if (inside := one.is_within(method)) is not None]
    return Errors(
        mae=round(statistics.fmean(tokens), 1),
        median_error=round(statistics.median(tokens), 1),
        median_relative_error=round(statistics.median(relative), 3),
        coverage_80=round(statistics.fmean(within), 3) if within else None,
    )


def write_answered(answered: Sequence[Answered], file: Path) -> None:
    """A JSON line for each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in answered))


def read_answered(file: Path) -> list[Answered]:
    """The reverse of ``write_answered``.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no ``Answered``; the message names it.
    """
    answered = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            answered.append(msgspec.json.decode(line, type=Answered))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
    return answered
