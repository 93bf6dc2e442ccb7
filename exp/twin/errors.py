"""What can go wrong in the twin.

TwinError
└── EngineDown
"""

from __future__ import annotations


class TwinError(Exception):
    """Any of them."""


class EngineDown(TwinError):
    """The engine has failed and takes no requests."""
