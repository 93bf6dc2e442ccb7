"""The expected output length of a request: a running mean of what each model has answered."""

from __future__ import annotations

from wire.length import LengthEstimate

WINDOW = 200
"""Answers after which the mean forgets: a model's verbosity changes with its traffic."""
UNBOUNDED_GUESS = 256
"""Output tokens expected of the first request when it names no ``max_tokens``."""


class RunningMeanLengths:
    """Per model, the exponentially forgetting mean of observed output tokens."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def estimate(self, model: str, max_tokens: int | None) -> LengthEstimate:
        """The mean so far, at most ``max_tokens``; before any answer ``max_tokens`` itself."""
        mean = self._mean.get(model)
        if mean is None:
            first = float(max_tokens if max_tokens is not None else UNBOUNDED_GUESS)
            return LengthEstimate(mean_tokens=first, source="max_tokens")
        bounded = mean if max_tokens is None else min(mean, float(max_tokens))
        return LengthEstimate(mean_tokens=bounded, source="running_mean")

    def observe(self, model: str, num_output_tokens: int) -> None:
        """Learn from an answer that ended by itself."""
        count = min(self._count.get(model, 0) + 1, WINDOW)
        mean = self._mean.get(model, 0.0)
        self._mean[model] = mean + (num_output_tokens - mean) / count
        self._count[model] = count
