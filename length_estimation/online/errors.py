"""Why there is no estimate. Imports nothing.

NotEstimated
├── InvalidQuestion      what cannot be asked; names field and value
│   ├── BodyTooLarge     more bytes than are read
│   └── BodyTooSlow      not there in time
├── Overloaded           too many questions wait
├── DeadlinePassed       the model's answer did not come in time
└── InferenceFailed      the model failed, or gave what is no distribution
"""

from __future__ import annotations

from typing import ClassVar


class NotEstimated(Exception):
    """No estimate; whoever asked has a fallback of its own."""

    reason: ClassVar[str]
    """For metrics."""
    status: ClassVar[int]
    """Over HTTP."""


class InvalidQuestion(NotEstimated, ValueError):
    """What cannot be asked; the message names the field and the value."""

    reason, status = "invalid", 400


class BodyTooLarge(InvalidQuestion):
    """A body of more bytes than are read."""

    status = 413


class BodyTooSlow(InvalidQuestion):
    """A body that was not there in time."""

    status = 408


class Overloaded(NotEstimated):
    """Too many questions wait already."""

    reason, status = "overload", 503


class DeadlinePassed(NotEstimated):
    """The model's answer did not come in time; it is remembered when it comes."""

    reason, status = "deadline", 503


class InferenceFailed(NotEstimated):
    """The model failed, or gave what is no distribution; the message is one of a few."""

    reason, status = "failed", 500
