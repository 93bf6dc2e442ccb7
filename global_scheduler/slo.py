"""The latency goals that a request's headers name.

``x-slo-ttft-ms`` and ``x-slo-tpot-ms`` are aliases of the Gateway API inference extension's
``x-llm-d-slo-ttft-ms`` and ``x-llm-d-slo-tpot-ms``, which win where both are given.
"""

from __future__ import annotations

from collections.abc import Callable

from global_scheduler.errors import BadRequest
from wire.prediction import Slo

TTFT_HEADERS = (b"x-llm-d-slo-ttft-ms", b"x-slo-ttft-ms")
TPOT_HEADERS = (b"x-llm-d-slo-tpot-ms", b"x-slo-tpot-ms")
LONGEST_GOAL_MS = 1e9
"""Eleven days."""


def read_slo(header: Callable[[bytes], bytes | None]) -> Slo | None:
    """The goals, or None when no header names one; ``header`` looks one up by lower-case name.

    Raises:
        BadRequest: a value is not a positive number of milliseconds.
    """
    ttft_ms, tpot_ms = _goal_ms(header, TTFT_HEADERS), _goal_ms(header, TPOT_HEADERS)
    if ttft_ms is None and tpot_ms is None:
        return None
    return Slo(ttft_ms=ttft_ms, tpot_ms=tpot_ms)


def _goal_ms(header: Callable[[bytes], bytes | None], names: tuple[bytes, ...]) -> float | None:
    for name in names:
        value = header(name)
        if value is not None:
            return _positive_ms(name.decode(), value.decode("latin-1"))
    return None


def _positive_ms(name: str, value: str) -> float:
    try:
        goal_ms = float(value)
    except ValueError:
        goal_ms = 0.0
    if not 0.0 < goal_ms <= LONGEST_GOAL_MS:  # refuses NaN as well
        raise BadRequest(
            f"{name} must be a number of milliseconds above 0 and up to {LONGEST_GOAL_MS:.0f}, "
            f"got {value!r}",
            param=name,
        )
    return goal_ms
