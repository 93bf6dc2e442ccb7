"""Types of command line arguments; an error names the value."""

from __future__ import annotations

import argparse


def at_least_1(text: str) -> int:
    """A count."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (got {text})")
    return number


def seed(text: str) -> int:
    """What numpy takes as one."""
    if not 0 <= (number := int(text)) < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1 (got {text})")
    return number


def share(text: str) -> float:
    """A part of a whole, but not all of it."""
    if not 0 <= (part := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1 (got {text})")
    return part


def true_or_false(text: str) -> bool:
    """As a word."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be True or False (got {text!r})")
    return text.lower() == "true"
