"""What workers and the scheduler tell one another about generations.

A worker gives each request a number of its own. ``Begun`` opens it; then the scheduler says ``Go``
(once, and again after each ``Failed`` that it can mend) or ``Sorry``, until the worker reports
``Answered`` or ``Left``.
"""

from __future__ import annotations

import msgspec

from global_scheduler.bodies import GenerationRequest
from global_scheduler.carrying import Errand
from global_scheduler.engine_http import RawHeaders
from global_scheduler.relay import Relayed


class _Message(msgspec.Struct, array_like=True, tag=True):
    pass


class Begun(_Message):
    """A client asks for a generation."""

    number: int
    request_id: str
    headers: RawHeaders
    request: GenerationRequest


class Streamed(_Message):
    """Output tokens that have come back so far, by request."""

    num_tokens: dict[int, int]


class Answered(_Message):
    """The client has its answer."""

    number: int
    relayed: Relayed


class Failed(_Message):
    """The unit has failed; ``was_begun``: the client has had a part of the answer."""

    number: int
    reason: str
    was_begun: bool
    was_refused: bool
    code: str | None


class Left(_Message):
    """The client has gone, or has been answered with an error."""

    number: int


class Refused(_Message):
    """A request was answered without a unit; its status, for the metrics."""

    status: int


class Configured(_Message):
    """What a worker needs to know of the settings; the first message it gets."""

    max_body_bytes: int
    api_keys: tuple[str, ...]
    engine_api_key: str | None
    engine_timeout_s: float
    admin_token: str | None
    is_loopback: bool


class Go(_Message):
    """Ask this engine."""

    number: int
    errand: Errand


class Sorry(_Message):
    """There is no answer but this error."""

    number: int
    status: int
    headers: RawHeaders
    body: bytes


FromWorker = Begun | Streamed | Answered | Failed | Left | Refused
FromScheduler = Configured | Go | Sorry
