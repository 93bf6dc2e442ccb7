"""The latency goals that a request's headers name.

``x-slo-ttft-ms`` and ``x-slo-tpot-ms`` are aliases of the Gateway API inference extension's
``x-llm-d-slo-ttft-ms`` and ``x-llm-d-slo-tpot-ms``, which win where both are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from global_scheduler.errors import BadRequest
from wire.prediction import Slo

TTFT_HEADERS = (b"x-llm-d-slo-ttft-ms", b"x-slo-ttft-ms")
TPOT_HEADERS = (b"x-llm-d-slo-tpot-ms", b"x-slo-tpot-ms")
LONGEST_GOAL_MS = 1e9
"""Eleven days."""


GoalDefaults = Mapping[str, Slo]
"""Goals of requests that name none, by model; ``*`` stands for all others."""
NO_GOAL = Slo()


def read_slo(
    header: Callable[[bytes], bytes | None], model: str, defaults: GoalDefaults
) -> Slo | None:
    """The goals, or None for none; ``header`` looks one up by lower-case name.

    Each goal that no header names is the model's default.

    Raises:
        BadRequest: a value is not a positive number of milliseconds.
    """
    named = Slo(ttft_ms=_goal_ms(header, TTFT_HEADERS), tpot_ms=_goal_ms(header, TPOT_HEADERS))
    return with_defaults(named, model, defaults)


def with_defaults(named: Slo, model: str, defaults: GoalDefaults) -> Slo | None:
    """The goals that were named and, where none was, the model's default; None for no goals."""
    default = defaults.get(model) or defaults.get("*", NO_GOAL)
    ttft_ms = default.ttft_ms if named.ttft_ms is None else named.ttft_ms
    tpot_ms = default.tpot_ms if named.tpot_ms is None else named.tpot_ms
    if ttft_ms is None and tpot_ms is None:
        return None
    return Slo(ttft_ms=ttft_ms, tpot_ms=tpot_ms)


def parse_goal_defaults(texts: Sequence[str]) -> GoalDefaults:
    """``MODEL=TTFT_MS[,TPOT_MS]`` each, ``-`` for no goal, as ``--slo`` takes them.

    Raises:
        ValueError: a text has another form or a value is no positive number of milliseconds.
    """
    defaults: dict[str, Slo] = {}
    for text in texts:
        model, equals, goals = text.rpartition("=")
        ttft, _, tpot = goals.partition(",")
        # What does not print, such as a lone surrogate, is in no model's name, nor in any answer.
        if not equals or not model or not ttft or not text.isprintable():
            raise ValueError(f"{text!r} must look like MODEL=TTFT_MS[,TPOT_MS]")
        defaults[model] = Slo(ttft_ms=_default_ms(text, ttft), tpot_ms=_default_ms(text, tpot))
    return defaults


def _default_ms(text: str, value: str) -> float | None:
    if value in ("", "-"):
        return None
    try:
        return _positive_ms(text, value)
    except BadRequest as error:
        raise ValueError(error.message) from None


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
