"""What can go wrong in the twin.

TwinError
├── EngineDown
└── ValidationImpossible
"""

from __future__ import annotations


class TwinError(Exception):
    """Any of them."""


class EngineDown(TwinError):
    """The engine has failed and takes no requests."""


class ValidationImpossible(TwinError):
    """What the twin should be held against is not there, or has failed; says what to do."""
