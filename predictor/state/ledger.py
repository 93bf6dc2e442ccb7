"""An engine's state by its gateway's account: what was sent, streamed back and has not ended.

Needs nothing from the engine. The account says which requests stream and how far they have come;
what it cannot say is estimated with vLLM's rules and a step-time model:

* Requests are admitted in the order in which they were sent, while there is a slot and while the KV
  blocks have room for the whole prompt; the first one without room holds up all behind it.
* Prompts, less what the prefix cache is said to hold, are computed one after another at the rate of
  full batches. A prompt's turn comes when that of the request before it is done, which for a
  streaming one is known: at its first token.
* A stream has as many tokens as came back. An answer that does not stream, or one whose gateway
  does not count, has one for each step of the decoding batch since its prompt was done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from predictor.errors import StateUnavailable
from predictor.overlay import prefix_hit
from predictor.questions import check_sent
from predictor.state.metrics import with_slots_for
from predictor.step_time.base import StepTimeModel, batch_shape
from wire.prediction import SentRequest
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import (
    SNAPSHOT_VERSION,
    EngineLimits,
    EngineSnapshot,
    RequestStatus,
    SequenceState,
)

SHORTEST_STEP_S = 1e-6


class LedgerStateSource:
    """Rebuilds the state from each question's own list."""

    def __init__(
        self,
        limits: EngineLimits,
        model_name: str,
        engine_id: str,
        step_time: StepTimeModel,
        clock: Callable[[], float],
        *,
        is_only_source: bool = False,
    ) -> None:
        """The clock gives UNIX seconds. The only source takes a question without a list for one
        with an empty list; else such a question is left to other sources.
        """
        self._limits = limits
        self._model_name = model_name
        self._engine_id = engine_id
        self._step_time = step_time
        self._clock = clock
        self._is_only_source = is_only_source

    @property
    def name(self) -> StateSourceName:
        """Always ``ledger``."""
        return "ledger"

    async def read(self, sent: Sequence[SentRequest] | None = None) -> EngineSnapshot:
        """The state that the list implies; an empty one is that of an idle engine.

        Raises:
            InvalidQuestion: something in the list cannot be.
            StateUnavailable: there is no list.
        """
        if sent is None and self._is_only_source:
            sent = ()
        if sent is None:
            raise StateUnavailable("the question does not say what the engine was sent")
        check_sent(sent)
        unique = list({request.request_id: request for request in sent}.values())
        running, waiting = rebuild(unique, self._limits, self._step_time)
        limits = with_slots_for(len(running), self._limits)
        num_blocks = sum(sequence.num_blocks for sequence in running)
        return EngineSnapshot(
            version=SNAPSHOT_VERSION,
            engine_id=self._engine_id,
            model=self._model_name,
            step=0,
            time=self._clock(),
            limits=limits,
            running=running,
            waiting=waiting,
            num_free_blocks=max(0, limits.num_gpu_blocks - num_blocks),
        )

    async def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the engine goes with the answers that stream now."""

    decode_step_s: float
    """A step in which every stream gets a token."""
    prompt_tokens_per_s: float
    """Beside them, in full batches."""


def rebuild(
    sent: Sequence[SentRequest], limits: EngineLimits, step_time: StepTimeModel
) -> tuple[list[SequenceState], list[SequenceState]]:
    """The running and the waiting sequences, see this module's description."""
    pace = _pace(sent, limits, step_time)
    streams = {r.request_id: _stream(r, pace, limits) for r in sent if r.has_first_token}
    free_slots = limits.max_num_seqs - len(streams)
    free_blocks = limits.num_gpu_blocks - sum(stream.num_blocks for stream in streams.values())
    running: list[SequenceState] = []
    waiting: list[SequenceState] = []
    begins_ago_s = math.inf  # when the next prompt's turn came; negative when it is still to come
    for request in sorted(sent, key=lambda request: -request.sent_age_ms):
        if request.has_first_token:
            running.append(streams[request.request_id])
            if request.first_token_age_ms is not None:
                begins_ago_s = min(begins_ago_s, request.first_token_age_ms / 1e3)
            continue
        begins_ago_s = min(begins_ago_s, request.sent_age_ms / 1e3)
        sequence = _admitted(request, begins_ago_s, pace, limits)
        num_prompt_blocks = -(-sequence.num_prompt_tokens // limits.block_size)
        has_room = free_slots > 0 and free_blocks >= num_prompt_blocks
        if waiting or not has_room or begins_ago_s <= 0:
            waiting.append(_waiting(request, limits))
            continue
        running.append(sequence)
        free_slots -= 1
        free_blocks -= max(num_prompt_blocks, sequence.num_blocks)
        begins_ago_s -= _prefill_s(request, pace, limits)
    if limits.scheduling_policy == "priority":
        waiting.sort(key=lambda sequence: sequence.priority)
    return running, waiting


def _pace(sent: Sequence[SentRequest], limits: EngineLimits, step_time: StepTimeModel) -> Pace:
    streams = [request for request in sent if request.has_first_token]
    contexts = [
        min(request.num_prompt_tokens + request.num_output_tokens, limits.max_model_len)
        for request in streams[: limits.max_num_seqs]
    ]
    decode_s = step_time.step_s(batch_shape(decode_contexts=contexts or [1]))
    num_prompt_tokens = max(1, limits.max_num_batched_tokens - len(contexts))
    full_s = step_time.step_s(batch_shape([(num_prompt_tokens, 0)], contexts))
    return Pace(max(decode_s, SHORTEST_STEP_S), num_prompt_tokens / max(full_s, SHORTEST_STEP_S))


def _stream(request: SentRequest, pace: Pace, limits: EngineLimits) -> SequenceState:
    """A request that streams; halfway through its answer where nothing else is known."""
    generated = request.num_output_tokens
    if generated == 0 and request.first_token_age_ms is not None:
        generated = 1 + int(max(0.0, request.first_token_age_ms) / 1e3 / pace.decode_step_s)
    elif generated == 0:
        generated = int(request.expected_output_tokens / 2)
    return _running(request, limits, max(1, generated))


def _admitted(
    request: SentRequest, begins_ago_s: float, pace: Pace, limits: EngineLimits
) -> SequenceState:
    """A request without a first token whose prompt's turn came so long ago."""
    done_ago_s = begins_ago_s - _prefill_s(request, pace, limits)
    if done_ago_s > 0 and not request.is_streamed:
        return _running(request, limits, 1 + int(done_ago_s / pace.decode_step_s))
    computed = max(0, int(begins_ago_s * pace.prompt_tokens_per_s)) + _num_cached(request, limits)
    return _sequence(request, limits, 0, computed, "running")


def _waiting(request: SentRequest, limits: EngineLimits) -> SequenceState:
    """A request whose turn has not come."""
    sequence = _sequence(request, limits, 0, 0, "waiting")
    sequence.num_cached_tokens = _num_cached(request, limits)
    return sequence


def _prefill_s(request: SentRequest, pace: Pace, limits: EngineLimits) -> float:
    uncached = request.num_prompt_tokens - _num_cached(request, limits)
    return uncached / pace.prompt_tokens_per_s


def _num_cached(request: SentRequest, limits: EngineLimits) -> int:
    """Prompt tokens that need not be computed."""
    if not limits.enable_prefix_caching:
        return 0
    prompt = min(request.num_prompt_tokens, limits.max_model_len - 1)
    return prefix_hit(request.num_cached_tokens, prompt, limits)


def _running(request: SentRequest, limits: EngineLimits, generated: int) -> SequenceState:
    """A decoding request, which has not come to its end yet."""
    room = limits.max_model_len - request.num_prompt_tokens
    most = room if request.max_tokens is None else min(request.max_tokens, room)
    generated = max(1, min(generated, most - 1))
    computed = request.num_prompt_tokens + generated - 1
    return _sequence(request, limits, generated, computed, "running")


def _sequence(
    request: SentRequest, limits: EngineLimits, generated: int, computed: int, status: RequestStatus
) -> SequenceState:
    prompt = min(request.num_prompt_tokens, limits.max_model_len - 1)
    computed = min(computed, prompt + generated - 1)
    return SequenceState(
        request_id=request.request_id,
        num_prompt_tokens=prompt,
        num_tokens=prompt + generated,
        num_computed_tokens=computed,
        max_tokens=limits.max_model_len - prompt
        if request.max_tokens is None
        else request.max_tokens,
        priority=request.priority,
        status=status,
        num_blocks=-(-computed // limits.block_size),
    )
