"""How important a request is, and whose session it belongs to, by its headers and its body."""

from __future__ import annotations

from collections.abc import Callable

from global_scheduler.errors import BadRequest

PRIORITY_HEADER = b"x-astrolabe-priority"
SESSION_HEADER = b"x-session-id"
MOST_IMPORTANT = 1_000_000
LONGEST_SESSION_ID = 256


def importance_of(header: Callable[[bytes], bytes | None], body_priority: int) -> int:
    """Higher is more important; below 0 the request may be refused when goals cannot be met.

    The header says so itself, as the Gateway API inference extension has it. The body's
    ``priority`` is vLLM's, where lower is earlier, and counts with its sign changed; the header
    wins.

    Raises:
        BadRequest: the header is not a whole number of reasonable size.
    """
    given = header(PRIORITY_HEADER)
    if given is None:
        return max(-MOST_IMPORTANT, min(-body_priority, MOST_IMPORTANT))
    try:
        importance = int(given)
    except ValueError:
        importance = MOST_IMPORTANT + 1
    if abs(importance) > MOST_IMPORTANT:
        raise BadRequest(
            f"{PRIORITY_HEADER.decode()} must be a whole number from -{MOST_IMPORTANT} to "
            f"{MOST_IMPORTANT}, got {given.decode('latin-1')!r}",
            param=PRIORITY_HEADER.decode(),
        )
    return importance


def session_of(header: Callable[[bytes], bytes | None]) -> str:
    """The session that the client names, cut to a reasonable length; empty if it names none."""
    return (header(SESSION_HEADER) or b"").decode("latin-1")[:LONGEST_SESSION_ID]
