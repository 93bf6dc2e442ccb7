"""Follows an engine's batches: which are in flight, and how long the finished ones took.

A batch's duration runs from when the engine could work on it to when its results were back. While
the engine has work, that is from the moment the results before it were back: with one batch at a
time the short gap in between (outputs sent, requests taken in, scheduling) belongs to the step that
pays for it, and with two in flight (async scheduling) the second does not begin before the first
ends, however early it was handed over. After idleness it is from when scheduling began. So the
durations of a busy engine add up to the time that passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from wire.snapshot import BatchInFlight, StepRecord

NUM_RECENT_STEPS = 64

# More than any engine keeps in flight; older ones were given up by the engine.
_MAX_IN_FLIGHT = 16


@dataclass(slots=True)
class _Batch:
    output: Any
    step: int
    scheduled_at_s: float  # of the monotonic clock
    flight: BatchInFlight
    shape: tuple[int, int, int, int, int, float]


class StepTracker:
    """The batches of one engine, oldest first."""

    def __init__(self, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        """``clock`` is monotonic; ``wall_clock`` gives UNIX seconds."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._encode = msgspec.msgpack.Encoder().encode
        self._batches: deque[_Batch] = deque(maxlen=_MAX_IN_FLIGHT)
        self._last_results_at_s: float | None = None
        self.num_steps = 0
        self.num_preemptions = 0
        self.recent_steps: deque[msgspec.Raw] = deque(maxlen=NUM_RECENT_STEPS)
        """Encoded once each, because every snapshot carries them all."""

    @property
    def in_flight(self) -> list[BatchInFlight]:
        """The batches whose results are not back, oldest first."""
        return [batch.flight for batch in self._batches]

    def scheduled(self, scheduler: Any, output: Any, scheduled_at_s: float) -> None:
        """``schedule()``, entered at ``scheduled_at_s``, has returned ``output``."""
        self.num_steps += 1
        self.num_preemptions += len(getattr(output, "preempted_req_ids", None) or ())
        tokens: dict[str, int] = output.num_scheduled_tokens
        if not tokens:
            return  # only tells the workers of finished requests
        started_at = self._wall_clock() - (self._clock() - scheduled_at_s)
        flight = BatchInFlight(
            started_at=started_at,
            num_scheduled_tokens=tokens,
            prefill_chunks=_prefill_chunks(scheduler.requests, tokens),
        )
        shape = _shape(scheduler.requests, tokens)
        self._batches.append(_Batch(output, self.num_steps, scheduled_at_s, flight, shape))

    def results_back(self, output: Any, at_s: float, has_more_work: bool) -> None:
        """The results of ``output`` came back at ``at_s``."""
        # Results come back in order; any batch before this one was given up.
        while any(batch.output is output for batch in self._batches):
            batch = self._batches.popleft()
            if batch.output is output:
                self._record(batch, at_s)
        self._last_results_at_s = at_s if has_more_work or self._batches else None

    def _record(self, batch: _Batch, at_s: float) -> None:
        previous = self._last_results_at_s
        begun_at_s = batch.scheduled_at_s if previous is None else previous
        prefill_tokens, decode_tokens, prefills, decodes, kv_tokens, attention = batch.shape
        record = StepRecord(
            step=batch.step,
            started_at=batch.flight.started_at + begun_at_s - batch.scheduled_at_s,
            duration_s=at_s - begun_at_s,
            num_prefill_tokens=prefill_tokens,
            num_decode_tokens=decode_tokens,
            num_prefill_seqs=prefills,
            num_decode_seqs=decodes,
            num_kv_tokens=kv_tokens,
            prefill_attention=attention,
        )
        self.recent_steps.append(msgspec.Raw(self._encode(record)))


def _shape(
    requests: dict[str, Any], tokens: dict[str, int]
) -> tuple[int, int, int, int, int, float]:
    """``StepRecord``'s numbers, taken right after scheduling.

    Sequences that get one token count as decoding, as the attention kernels see them.
    """
    prefill_tokens = prefills = decodes = kv_tokens = 0
    attention = 0.0
    for request_id, num_tokens in tokens.items():
        context = requests[request_id].num_computed_tokens  # this step's tokens included
        kv_tokens += context - num_tokens
        if num_tokens == 1:
            decodes += 1
        else:
            prefills += 1
            prefill_tokens += num_tokens
            attention += num_tokens * (context - num_tokens / 2)
    return prefill_tokens, decodes, prefills, decodes, kv_tokens, attention


def _prefill_chunks(requests: dict[str, Any], tokens: dict[str, int]) -> list[str]:
    """``BatchInFlight``'s field, told right after scheduling: a preemption would forget it.

    vLLM's own ``is_prefill_chunk`` is younger than the oldest version that the plug-in takes.
    """
    return [
        request_id
        for request_id in tokens
        if requests[request_id].num_computed_tokens < requests[request_id].num_tokens
    ]
