"""What can go wrong with a fleet. Every message says what to do next.

FleetError
├── PortInUseError      a port is taken by a program that is not ours
├── OtherFleetError     a fleet with another plan is running
├── BusyError           another set-up works on the same fleet
├── StartError          a part died, or never became healthy
├── HostError           one host cannot be reached or cannot do what is asked
└── ClusterError        some hosts failed; nothing that a deployment started is left running
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


class HostError(FleetError):
    """One host cannot be reached or cannot do what is asked."""

    def __init__(self, hostname: str, reason: str) -> None:
        super().__init__(f"{hostname}: {reason}")
        self.hostname = hostname
        self.reason = reason


class ClusterError(FleetError):
    """Some hosts failed; nothing that a deployment started is left running."""
