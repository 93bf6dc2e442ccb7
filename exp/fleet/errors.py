"""What can go wrong with a fleet. Every message says what to do next.

FleetError
├── PortInUseError      a port is taken by a program that is not ours
├── OtherFleetError     a fleet with another plan is running
├── BusyError           another set-up works on the same fleet
└── StartError          a part died, or never became healthy
"""

from __future__ import annotations


class FleetError(Exception):
    """A fleet cannot be started, stopped or read."""


class PortInUseError(FleetError):
    """A port is taken by a program that is not ours."""


class OtherFleetError(FleetError):
    """A fleet with another plan is running."""


class BusyError(FleetError):
    """Another set-up works on the same fleet."""


class StartError(FleetError):
    """A part died while it started, or never became healthy."""
