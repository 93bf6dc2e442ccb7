"""What a person sees while a fleet starts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Protocol, TextIO

BAR_WIDTH = 20


class Display(Protocol):
    """Lines that stay, and one line that is written over."""

    def line(self, text: str) -> None:
        """Show a line that stays."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Show how far it is."""


class TerminalDisplay:
    """Writes to a stream; the progress line only where it can be written over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def line(self, text: str) -> None:
        """Show a line that stays."""
        self._write(("\r\033[K" if self._is_terminal else "") + text + "\n")

    def progress(self, done: int, total: int, text: str) -> None:
        """Show how far it is, where that does not fill a log."""
        if not self._is_terminal:
            return
        filled = BAR_WIDTH * done // max(1, total)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        line = f"  [{bar}] {done}/{total} ready  {text}"
        self._write("\r\033[K" + line[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            return  # nobody looks any more; the work goes on


class SilentDisplay:
    """For fleets that come and go by the dozen."""

    def line(self, text: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Nothing."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))
    return "\n".join(lines)
