"""One answer being generated: the link between the engine loop and a client's connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from exp.emulator.answers import Answer
from predictor.simulator.sequence import Sequence


@dataclass(slots=True, eq=False)
class Generation:
    """What the engine has produced so far. The engine writes it, one connection reads it."""

    seq: Sequence
    answer: Answer
    arrived_at: float
    """Monotonic seconds."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    wants_each_token: bool = True
    """False wakes the reader only at the end."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return self.seq.num_output_tokens

    @property
    def is_finished(self) -> bool:
        """Whether no more tokens will come."""
        return self.seq.finish_reason is not None

    def add_token(self, now: float) -> None:
        """Tell the reader about a token that the engine has just sampled."""
        if self.first_token_at is None:
            self.first_token_at = now
        self.last_token_at = now
        if self.wants_each_token or self.is_finished:
            self._changed.set()

    def wake(self) -> None:
        """Let the reader look, for instance after an abort."""
        self._changed.set()

    async def wait(self, num_seen: int) -> None:
        """Until there are more than ``num_seen`` tokens, or the end."""
        while self.num_tokens <= num_seen and not self.is_finished:
            self._changed.clear()
            await self._changed.wait()
