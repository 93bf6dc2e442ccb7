"""Compiled code does not outlive the sources that were inlined into it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from predictor.simulator.kernel.compiled import forget_outdated
from predictor.simulator.kernel.vllm import play


def test_code_that_is_older_than_any_source_is_forgotten(tmp_path: Path) -> None:
    """numba would use it: it compares with the file of the function itself alone."""

    class Cached:
        """A compiled function as far as its cache goes."""

        class stats:
            cache_path = str(tmp_path)

        def __call__(self) -> None: ...

    old, new = tmp_path / "play-1.nbi", tmp_path / "play-2.nbi"
    for index, at in ((old, 1.0), (new, time.time() + 60)):
        index.touch()
        os.utime(index, (at, at))
    forget_outdated(Cached())
    assert (old.exists(), new.exists()) == (False, True)


def test_numba_tells_where_it_keeps_code() -> None:
    """By the attribute that the above goes by."""
    assert Path(play.stats.cache_path).name  # type: ignore[attr-defined]
