"""Settings with numbers that clocks, files and other processes can take."""

from __future__ import annotations

from pydantic import BaseModel, field_validator

LARGEST = 10**12
"""Of what a setting counts: bytes, tokens, seconds. Those are 30,000 years, and still fit 64 bits
in microseconds."""


class BoundedNumbers(BaseModel):
    """A model that takes no infinity, no NaN and no number beyond ``LARGEST``, on either side."""

    @field_validator("*")
    @classmethod
    def _is_bounded(cls, value: object) -> object:
        if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:  # nor NaN
            raise ValueError(f"must be a number of at most {LARGEST}")
        return value


def try_count(text: str) -> int | None:
    """A whole number from 1 to ``LARGEST`` in digits; None for any other text."""
    is_short = len(text) <= len(str(LARGEST))  # Python refuses to read very long numbers
    if not is_short or not text.isascii() or not text.isdecimal():
        return None
    return int(text) if 1 <= int(text) <= LARGEST else None
