"""Everything that can go wrong in the sidecar and in the plug-in. Imports nothing.

PredictorError
├── ConfigurationError       a setting that cannot be used; names key and value
├── InvalidQuestion          a question that cannot be asked; names field and value
├── QuestionTooLarge         a body over the limit
├── MethodNotAllowed         a path asked for in a way that it does not take
├── Overloaded               too many questions wait, or the answer would come too late
├── NotReady                 the backend is still being set up
├── SimulationFailed         the backend cannot play a state to an end
└── StateUnavailable         the engine's state cannot be read at the moment
    ├── SnapshotAbsent       the engine has not written one, or has ended and removed it
    ├── SnapshotTorn         the engine kept writing while it was read; worth another try
    ├── SnapshotCorrupt      the bytes are not a snapshot
    ├── SnapshotStale        the engine that wrote it has ended
    └── StateUnreachable     no answer from a remote engine within the deadline
"""

from __future__ import annotations


class PredictorError(Exception):
    """Any error of the sidecar or the plug-in."""


class ConfigurationError(PredictorError, ValueError):
    """A setting that cannot be used; the message names the key and the value."""


class InvalidQuestion(PredictorError, ValueError):
    """A question that cannot be asked; the message names the field and the value."""

    def __init__(self, message: str, param: str | None = None) -> None:
        """``param`` is the field."""
        super().__init__(message)
        self.param = param


class QuestionTooLarge(PredictorError, ValueError):
    """A body of more bytes than the sidecar reads."""


class MethodNotAllowed(PredictorError):
    """A path was asked for by another HTTP method than its own."""


class Overloaded(PredictorError):
    """The question was dropped: too many wait, or its deadline has passed."""


class NotReady(PredictorError):
    """The backend is still being set up."""


class SimulationFailed(PredictorError):
    """The backend cannot play this state to an end."""


class StateUnavailable(PredictorError):
    """The engine's state cannot be read at the moment; another source may still know it."""


class SnapshotAbsent(StateUnavailable):
    """No snapshot is there: the engine has not started, has not written one yet, or has ended."""


class SnapshotTorn(StateUnavailable):
    """The engine was writing at every attempt to read."""


class SnapshotCorrupt(StateUnavailable):
    """What was read is not a snapshot."""


class SnapshotStale(StateUnavailable):
    """The engine that wrote the snapshot has ended without removing it."""


class StateUnreachable(StateUnavailable):
    """A remote engine did not answer within the deadline, or answered with an error."""
