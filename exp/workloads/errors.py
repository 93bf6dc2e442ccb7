"""What goes wrong with workloads.

WorkloadError
├── TraceError    a trace, or a file of lengths, cannot be used; names file and line
└── TargetError   the endpoint that should be measured does not answer
"""

from __future__ import annotations


class WorkloadError(Exception):
    """Something the caller has to mend; its text says what."""


class TraceError(WorkloadError):
    """A file cannot be used."""


class TargetError(WorkloadError):
    """An endpoint cannot be used."""
