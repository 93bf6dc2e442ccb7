"""How much output to expect of a prompt."""

from __future__ import annotations

import msgspec


class LengthEstimate(msgspec.Struct, kw_only=True):
    """The number of output tokens; ``quantiles`` is empty when only a mean is known."""

    mean_tokens: float
    quantiles: dict[str, float] = {}
    source: str
    """What made the estimate, for the decision log."""
