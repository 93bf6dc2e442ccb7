"""What an engine holds, as a what-if sees it: its snapshot, and what its gateway knows besides.

The engine does not know how much output to expect, and it has not seen what arrived since its last
step. The gateway knows both of what it sent. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictor.remaining import remaining_tokens
from wire.prediction import SentRequest
from wire.snapshot import BatchInFlight, EngineLimits, EngineSnapshot, SequenceState

DEFAULT_OUTPUT_TOKENS = 256.0
"""Expected of a request that no gateway knows."""

MAX_UNSEEN_AGE_MS = 5000.0
"""A step of an engine rarely takes longer; an older request that it does not know was lost."""


@dataclass(frozen=True, slots=True)
class SimulatedSequence:
    """A sequence at the moment before the batches in flight."""

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

    def queue_position(self, priority: int) -> int:
        """Where in ``waiting`` a request that arrives now is put."""
        if self.limits.scheduling_policy == "fcfs":
            return len(self.waiting)
        return sum(seq.priority <= priority for seq in self.waiting)


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
    ``max_unseen_age_ms`` (then it was lost). Under priority scheduling the queue is sorted.
    """
    by_id = {request.request_id: request for request in sent}
    scheduled = _tokens_in_flight(snapshot.in_flight)
    known: set[str] = set()

    def simulated(sequence: SequenceState) -> SimulatedSequence:
        request = try_match(sequence.request_id, by_id)
        if request is not None:
            known.add(request.request_id)
        estimate = request.expected_output_tokens if request else default_output_tokens
        in_flight = scheduled.get(sequence.request_id, 0)
        return _simulated(sequence, estimate, in_flight, snapshot.limits)

    running = tuple(simulated(sequence) for sequence in snapshot.running)
    waiting = [simulated(sequence) for sequence in snapshot.waiting]
    unseen = [
        request
        for request in by_id.values()
        if request.request_id not in known
        and not request.has_first_token
        and request.sent_age_ms <= max_unseen_age_ms
    ]
    unseen.sort(key=lambda request: -request.sent_age_ms)
    waiting += [_unseen(request, snapshot.limits) for request in unseen]
    if snapshot.limits.scheduling_policy == "priority":
        waiting.sort(key=lambda seq: seq.priority)
    return Population(
        now=now,
        limits=snapshot.limits,
        num_free_blocks=snapshot.num_free_blocks,
        running=running,
        waiting=tuple(waiting),
        in_flight=tuple(snapshot.in_flight),
    )


def newcomer(
    request_id: str,
    num_prompt_tokens: int,
    expected_output_tokens: float,
    limits: EngineLimits,
    max_tokens: int | None = None,
    priority: int = 0,
) -> SimulatedSequence:
    """A request that the engine has not got, cut to what it could hold when it is alone.

    Refusing a prompt that is too long is the engine's task; a what-if takes the longest possible.
    """
    room = min(limits.max_model_len, limits.num_gpu_blocks * limits.block_size)
    prompt = max(1, min(num_prompt_tokens, room - 1))
    most = room - prompt if max_tokens is None else min(max_tokens, room - prompt)
    return SimulatedSequence(
        request_id=request_id,
        num_prompt_tokens=prompt,
        num_tokens=prompt,
        num_computed_tokens=0,
        remaining_tokens=remaining_tokens(expected_output_tokens, 0, most),
        priority=priority,
    )


def try_match(engine_request_id: str, sent: Mapping[str, SentRequest]) -> SentRequest | None:
    """The request behind an engine's id, or None.

    vLLM turns the gateway's id into ``cmpl-{id}-0-1a2b3c4d`` or ``chatcmpl-{id}-1a2b3c4d``: a word
    in front and up to two behind. Ids may hold dashes, so whole candidates are looked up.
    """
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
    sequence: SequenceState, estimate: float, in_flight: int, limits: EngineLimits
) -> SimulatedSequence:
    generated = sequence.num_tokens - sequence.num_prompt_tokens
    most = min(sequence.max_tokens, limits.max_model_len - sequence.num_prompt_tokens)
    computed = sequence.num_computed_tokens - in_flight
    if sequence.status != "running":
        # At least one token must be computed to get a next one.
        computed = min(sequence.num_cached_tokens, sequence.num_tokens - 1)
    return SimulatedSequence(
        request_id=sequence.request_id,
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_tokens=sequence.num_tokens,
        num_computed_tokens=max(0, computed),
        remaining_tokens=remaining_tokens(estimate, generated, most),
        num_blocks=sequence.num_blocks,
        priority=sequence.priority,
    )


def _unseen(request: SentRequest, limits: EngineLimits) -> SimulatedSequence:
    return newcomer(
        request.request_id,
        request.num_prompt_tokens,
        request.expected_output_tokens,
        limits,
        priority=request.priority,
    )
