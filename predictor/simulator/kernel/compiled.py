"""How the kernel's functions are compiled.

They pass their scratch memory, nine arrays, from one to the next. Counting references to them and
pushing them onto the stack takes more time than the work itself: a run at 256 running and 256
waiting sequences takes 470 us with both, 105 us without the counting, 35 us without either. Nothing
here allocates, so that there is nothing to count.
"""

from __future__ import annotations

import numba

entry = numba.njit(cache=True, nogil=True, _nrt=False)
"""What Python calls."""

inlined = numba.njit(cache=True, _nrt=False, inline="always")
"""What runs at every event: becomes a part of its caller."""

seldom = numba.njit(cache=True, _nrt=False)
"""What runs now and then: stays a function of its own, which keeps compilation short."""
