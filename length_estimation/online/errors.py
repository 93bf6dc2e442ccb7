"""Why the estimator gave no estimate. Imports nothing.

NotEstimated
├── InvalidQuestion    a number that no request has; names field and value
├── Overloaded         too many questions wait
├── DeadlinePassed     the model's answer did not come in time
└── InferenceFailed    the model failed, or gave what is no distribution
"""

from __future__ import annotations

from typing import ClassVar


class NotEstimated(Exception):
    """No estimate; the caller has its own fallback."""

    reason: ClassVar[str] = "failed"
    """For metrics."""


class InvalidQuestion(NotEstimated, ValueError):
    """A number that no request has; the message names the field and the value."""

    reason = "invalid"


class Overloaded(NotEstimated):
    """Too many questions wait already."""

    reason = "overload"


class DeadlinePassed(NotEstimated):
    """The model's answer did not come in time; it will be remembered when it comes."""

    reason = "deadline"


class InferenceFailed(NotEstimated):
    """The model failed, or gave what is no distribution."""
