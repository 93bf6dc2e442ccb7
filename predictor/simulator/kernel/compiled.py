"""How the kernel's functions are compiled.

They pass their scratch memory, nine arrays, from one to the next. Counting references to them and
pushing them onto the stack takes more time than the work itself: a run at 256 running and 256
waiting sequences takes 470 us with both, 105 us without the counting, 35 us without either. Nothing
here allocates, so that there is nothing to count.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])

_options: dict[str, Any] = {"cache": True, "_nrt": False}

entry: Callable[[_Function], _Function] = numba.njit(nogil=True, **_options)
"""What Python calls."""

inlined: Callable[[_Function], _Function] = numba.njit(forceinline=True, **_options)
"""What runs at every event: becomes a part of its caller. LLVM sees to that, for which numba itself
takes half as long again to compile."""

seldom: Callable[[_Function], _Function] = numba.njit(**_options)
"""What runs now and then: stays a function of its own, which keeps compilation short."""

generic: Callable[[_Function], _Function] = numba.njit(_nrt=False)
"""What takes a compiled function as an argument, by which numba's cache would not find it again:
it is cached with its caller."""


def machine_code(function: Callable[..., Any], *arguments: object) -> Callable[..., Any]:
    """``function`` for arguments of exactly these types, which are not looked at any more.

    Numba finds out the types of all members of all named tuples anew at every call, which takes
    longer than a small what-if. Calls with other types than these end in wrong memory.
    """
    dispatcher: Any = function
    code: Callable[..., Any] = dispatcher.compile(tuple(map(numba.typeof, arguments)))
    return code


def forget_outdated(function: Callable[..., Any], *more_folders: Path) -> None:
    """Remove numba's index of cached kernel code where any source of the kernel is newer.

    numba looks at the file of the function itself alone, not at those of the functions inlined.
    Sources in ``more_folders`` count, too.
    """
    folder = Path(__file__).parent
    sources = [folder.parents[1] / "step_time" / "table.py"]
    sources += [source for each in (folder, *more_folders) for source in each.glob("*.py")]
    changed_at = max(source.stat().st_mtime for source in sources)
    cache: Any = function
    for index in Path(cache.stats.cache_path).glob("*.nbi"):
        # Sidecars that start at the same time do this at the same time.
        with suppress(FileNotFoundError):
            if index.stat().st_mtime < changed_at:
                index.unlink()
