"""What the gateway itself knows of each request in flight, per unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from global_scheduler.units import Unit
from wire.prediction import Prediction, SentRequest, Slo


@dataclass(slots=True)
class InFlight:
    """One request that a unit has been sent."""

    request_id: str
    unit: str
    num_prompt_tokens: int
    expected_output_tokens: float
    priority: int
    sent_at_s: float
    prediction: Prediction | None
    """What the chosen unit's sidecar said, kept to correct later answers made without it."""
    quantiles: dict[str, float] = field(default_factory=dict)
    """Of the output length; empty when only a mean is known."""
    max_tokens: int | None = None
    slo: Slo | None = None
    is_streamed: bool = True
    num_cached_tokens: int = 0
    """Prompt tokens that the unit's prefix cache probably holds."""
    num_output_tokens: int = 0
    """That have streamed back."""
    first_token_at_s: float | None = None

    @property
    def num_uncached_tokens(self) -> int:
        """Prompt tokens that the unit has to compute."""
        return max(0, self.num_prompt_tokens - self.num_cached_tokens)


FEWEST_PREFILL_TOKENS = 256
"""Of a prompt that tells how fast a unit computes prompts at its best."""
PEAK_FADES_TO = 0.99
"""With each such prompt, so that a rate that was too good to be true is lived down."""


class Ledger:
    """Requests in flight. Entries are made at the moment of a decision, before any await, so that
    the next decision of a burst already counts them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, InFlight] = {}
        self._last_sent_s = float("-inf")

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def sent(self, unit: Unit, entry: InFlight) -> None:
        """Count a request against its unit."""
        self._entries[entry.request_id] = entry
        self._last_sent_s = max(self._last_sent_s, entry.sent_at_s)
        unit.outstanding.add(entry.request_id)
        unit.last_sent_s = entry.sent_at_s
        unit.num_outstanding_tokens += entry.num_prompt_tokens + entry.expected_output_tokens
        unit.num_uncached_tokens += entry.num_uncached_tokens

    def streamed(self, unit: Unit, request_id: str, num_output_tokens: int) -> None:
        """So many tokens have come back; the first of them ends the request's prefill."""
        entry = self._entries[request_id]
        entry.num_output_tokens = num_output_tokens
        if entry.first_token_at_s is None:
            entry.first_token_at_s = self._clock()
            unit.num_uncached_tokens -= entry.num_uncached_tokens
            _learn_prefill_rate(unit, entry, entry.first_token_at_s - entry.sent_at_s)

    def moved(self, request_id: str, unit: Unit, to: Unit) -> InFlight:
        """An engine has handed a running request to another one."""
        entry = self._entries[request_id]
        self.ended(unit, request_id)
        self.sent(to, entry)
        if entry.first_token_at_s is not None:
            to.num_uncached_tokens -= entry.num_uncached_tokens
        entry.unit = to.name
        return entry

    def ended(self, unit: Unit, request_id: str) -> None:
        """The request is over, well or not."""
        entry = self._entries.pop(request_id)
        unit.outstanding.discard(request_id)
        unit.last_ended_s = self._clock()
        if entry.first_token_at_s is None:
            unit.num_uncached_tokens -= entry.num_uncached_tokens
        unit.num_outstanding_tokens -= entry.num_prompt_tokens + entry.expected_output_tokens

    def entry(self, request_id: str) -> InFlight:
        """The entry of a request in flight."""
        return self._entries[request_id]

    def on_unit(self, unit: Unit) -> list[InFlight]:
        """The unit's requests in flight."""
        return [self._entries[request_id] for request_id in unit.outstanding]

    def sent_list(self, unit: Unit) -> list[SentRequest]:
        """The unit's requests in flight, as its sidecar is told."""
        now_s = self._clock()
        return [sent_request(entry, now_s) for entry in self.on_unit(unit)]

    def correct(self, prediction: Prediction, unit: Unit, asked_at_s: float) -> Prediction:
        """A prediction with what has come to pass since its question was asked.

        The time that the answer took has gone by for the newcomer, too. Each request sent to the
        unit meanwhile delays it by at least that request's own prefill; this lower bound keeps a
        burst that shares one answer from herding onto one unit.
        """
        delay_ms, num_later, num_tokens = (self._clock() - asked_at_s) * 1e3, 0, 0.0
        if self._last_sent_s >= asked_at_s:  # to any unit, which seldom happens so quickly
            later = [entry for entry in self.on_unit(unit) if entry.sent_at_s >= asked_at_s]
            delay_ms += sum(
                max(0.0, entry.prediction.ttft_ms - entry.prediction.queue_ms)
                for entry in later
                if entry.prediction is not None
            )
            num_later = len(later)
            num_tokens = sum(e.num_prompt_tokens + e.expected_output_tokens for e in later)
        return msgspec.structs.replace(
            prediction,
            queue_ms=prediction.queue_ms + delay_ms,
            ttft_ms=prediction.ttft_ms + delay_ms,
            ttft_p50_ms=prediction.ttft_p50_ms + delay_ms,
            ttft_p90_ms=prediction.ttft_p90_ms + delay_ms,
            e2e_ms=prediction.e2e_ms + delay_ms,
            e2e_p50_ms=prediction.e2e_p50_ms + delay_ms,
            e2e_p90_ms=prediction.e2e_p90_ms + delay_ms,
            comparable_e2e_ms=(prediction.comparable_e2e_ms or prediction.e2e_ms) + delay_ms,
            num_waiting=prediction.num_waiting + num_later,
            num_unprocessed_tokens=prediction.num_unprocessed_tokens + round(num_tokens),
        )


def _learn_prefill_rate(unit: Unit, entry: InFlight, ttft_s: float) -> None:
    """The best rate is met by a prompt that did not have to wait for others."""
    if entry.num_uncached_tokens >= FEWEST_PREFILL_TOKENS and ttft_s > 0:
        faded = PEAK_FADES_TO * (unit.peak_prefill_tokens_per_s or 0.0)
        unit.peak_prefill_tokens_per_s = max(faded, entry.num_uncached_tokens / ttft_s)


def sent_request(entry: InFlight, now_s: float) -> SentRequest:
    """A request in flight, as its unit's sidecar is told."""
    first_s = entry.first_token_at_s
    return SentRequest(
        request_id=entry.request_id,
        num_prompt_tokens=entry.num_prompt_tokens,
        expected_output_tokens=entry.expected_output_tokens,
        sent_age_ms=(now_s - entry.sent_at_s) * 1e3,
        has_first_token=first_s is not None,
        priority=entry.priority,
        quantiles=entry.quantiles or None,
        max_tokens=entry.max_tokens,
        num_output_tokens=entry.num_output_tokens,
        first_token_age_ms=None if first_s is None else (now_s - first_s) * 1e3,
        is_streamed=entry.is_streamed,
        slo=entry.slo,
        num_cached_tokens=entry.num_cached_tokens,
    )
