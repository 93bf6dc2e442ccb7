"""What an engine holds, as a what-if sees it: its snapshot, and what its gateway knows besides.

The engine does not know how much output to expect, and it has not seen what arrived since its last
step. The gateway knows both of what it sent. Everything here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictor.remaining import Points, length_points, remaining_tokens
from wire.prediction import SentRequest, Slo
from wire.snapshot import BatchInFlight, EngineLimits, EngineSnapshot, SequenceState

DEFAULT_OUTPUT_TOKENS = 256.0
"""Expected of a request that no gateway knows."""

MAX_UNSEEN_AGE_MS = 5000.0
"""A step of an engine rarely takes longer; an older request that it does not know was lost."""

UNLIMITED = 2**31
"""More tokens than any sequence may have."""


@dataclass(slots=True)
class SimulatedSequence:
    """A sequence at the moment before the batches in flight.

    A value that nothing changes once it is built; frozen, it would cost six times as much.
    """

    request_id: str
    num_prompt_tokens: int
    num_tokens: int
    """Prompt and generated tokens."""
    num_computed_tokens: int
    """Tokens in the KV cache; for a waiting sequence those that the prefix cache would spare."""
    remaining_tokens: int
    """Output tokens still to come, at least 1."""
    num_blocks: int = 0
    """KV blocks held."""
    priority: int = 0
    max_remaining_tokens: int = UNLIMITED
    """The most output tokens that may still come; the last of these ends it by length."""
    arrival_time: float = math.inf
    """UNIX seconds at the engine; infinite for one that has not got there."""
    output_quantiles: tuple[tuple[float, int], ...] = ()
    """Of a newcomer: (probability, output tokens), cut to the room; empty for a single number."""
    slo: Slo | None = None
    """Its latency goals, where its gateway told them."""
    age_s: float = 0.0
    """Since its gateway sent it, where known; its time to first token counts from there."""
    first_token_age_s: float | None = None
    """Since its gateway got its first token; None where there is none or no gateway told."""

    @property
    def num_output_tokens(self) -> int:
        """Generated so far."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_unprocessed_tokens(self) -> int:
        """Tokens to compute until the last one is out, which itself is never computed."""
        return max(1, self.num_tokens - self.num_computed_tokens) + self.remaining_tokens - 1


@dataclass(frozen=True, slots=True)
class Population:
    """All that a what-if starts from."""

    now: float
    """UNIX seconds; answers count from here."""
    limits: EngineLimits
    num_free_blocks: int
    running: tuple[SimulatedSequence, ...]
    """In the scheduler's order."""
    waiting: tuple[SimulatedSequence, ...]
    """In the order of admission."""
    in_flight: tuple[BatchInFlight, ...] = ()
    """Oldest first."""

    @property
    def num_unprocessed_tokens(self) -> int:
        """Of all sequences together."""
        return sum(seq.num_unprocessed_tokens for seq in self.running + self.waiting)

    @property
    def kv_blocks_wanted(self) -> int:
        """Blocks that the waiting sequences need before they can start."""
        size = self.limits.block_size
        return sum(-(-seq.num_tokens // size) for seq in self.waiting)


def build_population(
    snapshot: EngineSnapshot,
    sent: Sequence[SentRequest],
    now: float,
    default_output_tokens: float = DEFAULT_OUTPUT_TOKENS,
    max_unseen_age_ms: float = MAX_UNSEEN_AGE_MS,
) -> Population:
    """Overlay what the gateway has sent on what the engine reports.

    A sequence of the snapshot takes its expected output from the request in ``sent`` that it
    belongs to. A request that the snapshot does not know waits at the queue's end, oldest first,
    unless it has had its first token (then it has ended since) or is older than
    ``max_unseen_age_ms`` (then it was lost, unless the snapshot leaves out the end of a long
    queue). Under priority scheduling the queue is sorted.
    """
    by_id = {request.request_id: request for request in sent}
    unseen = dict(by_id)
    scheduled = _tokens_in_flight(snapshot.in_flight)
    limits = snapshot.limits

    def simulated(sequence: SequenceState) -> SimulatedSequence:
        request = try_match(sequence.request_id, by_id) if by_id else None
        in_flight = scheduled.get(sequence.request_id, 0) if scheduled else 0
        if request is None:
            return _simulated(sequence, default_output_tokens, in_flight, limits)
        unseen.pop(request.request_id, None)
        return _simulated_for(request, sequence, in_flight, limits)

    running = tuple([simulated(sequence) for sequence in snapshot.running])
    waiting = [simulated(sequence) for sequence in snapshot.waiting]
    oldest_ms = math.inf if snapshot.num_waiting_left_out else max_unseen_age_ms
    waiting += [
        _unseen(request, limits, now)
        for request in sorted(unseen.values(), key=lambda request: -request.sent_age_ms)
        if not request.has_first_token and request.sent_age_ms <= oldest_ms
    ]
    if limits.scheduling_policy == "priority":
        waiting.sort(key=lambda seq: seq.priority)
    return Population(
        now=now,
        limits=limits,
        num_free_blocks=snapshot.num_free_blocks,
        running=running,
        waiting=tuple(waiting),
        in_flight=tuple(snapshot.in_flight),
    )


def newcomer(
    request_id: str,
    num_prompt_tokens: int,
    expected_output_tokens: float | None,
    limits: EngineLimits,
    max_tokens: int | None = None,
    priority: int = 0,
    num_cached_tokens: int = 0,
    quantiles: Mapping[str, float] | None = None,
    slo: Slo | None = None,
) -> SimulatedSequence:
    """A request that the engine has not got, cut to what it could hold when it is alone.

    Refusing a prompt that is too long is the engine's task; a what-if takes the longest possible.
    ``quantiles`` are taken rather than ``expected_output_tokens``. Hits in the prefix cache are
    whole blocks, and leave one token at least to compute.
    """
    room = min(limits.max_model_len, limits.num_gpu_blocks * limits.block_size)
    prompt = max(1, min(num_prompt_tokens, room - 1))
    most = max(1, room - prompt if max_tokens is None else min(max_tokens, room - prompt))
    points = length_points(quantiles) if quantiles else ()
    expected = DEFAULT_OUTPUT_TOKENS if expected_output_tokens is None else expected_output_tokens
    return SimulatedSequence(
        request_id=request_id,
        num_prompt_tokens=prompt,
        num_tokens=prompt,
        num_computed_tokens=prefix_hit(num_cached_tokens, prompt, limits)
        if limits.enable_prefix_caching
        else 0,
        remaining_tokens=remaining_tokens(points or expected, 0, most),
        priority=priority,
        max_remaining_tokens=most,
        output_quantiles=tuple([(p, max(1, min(round(tokens), most))) for p, tokens in points]),
        slo=slo,
    )


def try_match(engine_request_id: str, sent: Mapping[str, SentRequest]) -> SentRequest | None:
    """The request behind an engine's id, or None.

    vLLM turns the gateway's id into ``cmpl-{id}-0-1a2b3c4d`` or ``chatcmpl-{id}-1a2b3c4d``: a word
    in front and up to two behind. Ids may hold dashes, so whole candidates are looked up; those two
    forms come first because there is one look-up for each sequence of each question.
    """
    request = sent.get(engine_request_id)
    if request is None:
        if engine_request_id.startswith("cmpl-") and engine_request_id[-11:-8] == "-0-":
            request = sent.get(engine_request_id[5:-11])
        elif engine_request_id.startswith("chatcmpl-") and engine_request_id[-9:-8] == "-":
            request = sent.get(engine_request_id[9:-9])
    return request or _try_candidates(engine_request_id, sent)


def _try_candidates(engine_request_id: str, sent: Mapping[str, SentRequest]) -> SentRequest | None:
    for front in (engine_request_id, engine_request_id.partition("-")[2]):
        candidate = front
        for _ in range(3):
            request = sent.get(candidate)
            if request is not None:
                return request
            candidate = candidate.rpartition("-")[0]
    return None


def _tokens_in_flight(batches: Sequence[BatchInFlight]) -> dict[str, int]:
    tokens: dict[str, int] = {}
    for batch in batches:
        for request_id, num_tokens in batch.num_scheduled_tokens.items():
            tokens[request_id] = tokens.get(request_id, 0) + num_tokens
    return tokens


def _simulated(
    sequence: SequenceState,
    expected: float | Points,
    in_flight: int,
    limits: EngineLimits,
    slo: Slo | None = None,
    age_s: float = 0.0,
    first_token_age_s: float | None = None,
) -> SimulatedSequence:
    prompt, tokens = sequence.num_prompt_tokens, sequence.num_tokens
    most = min(sequence.max_tokens, limits.max_model_len - prompt)
    num_blocks = 0
    if sequence.status == "running":
        computed = max(0, sequence.num_computed_tokens - in_flight)
        # Blocks beyond its tokens serve nothing that a what-if plays; it gains none by preemption.
        most_blocks = -(-sequence.num_computed_tokens // limits.block_size)
        num_blocks = min(sequence.num_blocks, most_blocks)
    else:
        computed = prefix_hit(sequence.num_cached_tokens, tokens, limits)
    return SimulatedSequence(  # by position, which takes half the time
        sequence.request_id,
        prompt,
        tokens,
        computed,
        remaining_tokens(expected, tokens - prompt, most),
        num_blocks,
        sequence.priority,
        max(1, most - tokens + prompt),
        sequence.arrival_time,
        (),
        slo,
        age_s,
        first_token_age_s,
    )


def _simulated_for(
    request: SentRequest, sequence: SequenceState, in_flight: int, limits: EngineLimits
) -> SimulatedSequence:
    """A sequence with what its gateway knows of it."""
    expected = (
        length_points(request.quantiles) if request.quantiles else request.expected_output_tokens
    )
    first_ms = request.first_token_age_ms
    return _simulated(
        sequence,
        expected,
        in_flight,
        limits,
        request.slo,
        request.sent_age_ms / 1e3,
        None if first_ms is None else first_ms / 1e3,
    )


def _unseen(request: SentRequest, limits: EngineLimits, now: float) -> SimulatedSequence:
    sequence = newcomer(
        request.request_id,
        request.num_prompt_tokens,
        request.expected_output_tokens,
        limits,
        request.max_tokens,
        request.priority,
        request.num_cached_tokens,
        quantiles=request.quantiles,
        slo=request.slo,
    )
    sequence.age_s = request.sent_age_ms / 1e3
    sequence.arrival_time = now - sequence.age_s
    return sequence


def prefix_hit(num_cached_tokens: int, num_tokens: int, limits: EngineLimits) -> int:
    """Tokens that the prefix cache spares: whole blocks, and one token at least is computed."""
    if num_cached_tokens <= 0:
        return 0
    cached = min(num_cached_tokens, num_tokens - 1)
    return max(0, cached - cached % limits.block_size)
