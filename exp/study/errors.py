"""What can go wrong with studies.

StudyError
├── PlanError      a study, system or option that does not exist or fit
├── CaseError      a run that failed; others go on
└── ResultError    files of results that are missing, damaged or of another kind
"""

from __future__ import annotations


class StudyError(Exception):
    """The root."""


class PlanError(StudyError):
    """Names the option and its value."""


class CaseError(StudyError):
    """Names the case and what it failed of."""


class ResultError(StudyError):
    """Names the file."""
