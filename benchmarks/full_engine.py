"""An engine that stays full, (48 running, 16 waiting), as far as its sidecar can see.

It has no model and no HTTP. Every step each running sequence gains a token, what has ended makes
room for the next one in the queue, a new one joins the queue's end, and the snapshot is published
the way the plug-in does it. It also knows what a gateway would tell of these requests.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from dataclasses import dataclass

import msgspec

from predictor.vllm_plugin.publisher import SnapshotPublisher
from wire.prediction import SentRequest, Slo
from wire.snapshot import (
    SNAPSHOT_VERSION,
    BatchInFlight,
    EngineLimits,
    EngineSnapshot,
    SequenceState,
    StepRecord,
)

STEP_S = 0.03
NUM_RECENT_STEPS = 64
LIMITS = EngineLimits(
    max_num_seqs=48,
    max_num_batched_tokens=512,
    max_model_len=4096,
    block_size=16,
    num_gpu_blocks=6800,
)
"""Those of Llama-2-7B on an A100 with 80 GB."""


def quantiles(num_output_tokens: float) -> dict[str, float]:
    """A length distribution as an estimator may give it."""
    factors = {"0.1": 0.3, "0.25": 0.6, "0.5": 1.0, "0.75": 1.6, "0.9": 2.3}
    return {probability: num_output_tokens * factor for probability, factor in factors.items()}


@dataclass(slots=True)
class _Request:
    state: SequenceState
    num_output_tokens: int
    """In the end."""
    sent_at: float
    first_token_at: float | None = None


class FullEngine:
    """One engine and what its gateway has sent to it."""

    def __init__(
        self, engine_id: str, num_running: int, num_waiting: int, seed: int, *, has_quantiles: bool
    ) -> None:
        """Publishes under ``engine_id``, at each step.

        With ``has_quantiles`` its gateway knows length distributions, else expected lengths.
        """
        self._rng = random.Random(seed)
        self._has_quantiles = has_quantiles
        self._engine_id = engine_id
        self._publisher = SnapshotPublisher(engine_id)
        self._numbers = itertools.count()
        self._steps: deque[StepRecord] = deque(maxlen=NUM_RECENT_STEPS)
        self._running = [self._start(self._arrive(), halfway=True) for _ in range(num_running)]
        self._waiting = deque(self._arrive() for _ in range(num_waiting))
        self._step = 0
        self.sent: list[SentRequest] = []
        """What a gateway has in flight on it, as of the last step."""

    async def run(self) -> None:
        """Step until cancelled."""
        while True:
            self.step()
            await asyncio.sleep(STEP_S)

    def step(self) -> None:
        """One scheduler step, and its snapshot."""
        self._step += 1
        for request in self._running:
            request.state.num_tokens += 1
            request.state.num_computed_tokens += 1
            request.state.num_blocks = -(-request.state.num_tokens // LIMITS.block_size)
        self._replace_ended()
        now = time.time()
        self._record(now)
        self._publisher.publish(msgspec.msgpack.encode(self._snapshot(now)))
        self.sent = [self._sent(r, now) for r in itertools.chain(self._running, self._waiting)]

    def close(self) -> None:
        """Remove the snapshot."""
        self._publisher.close()

    def _arrive(self) -> _Request:
        prompt = self._rng.randint(20, 900)
        state = SequenceState(
            request_id=f"cmpl-{self._rng.getrandbits(128):032x}-0-{next(self._numbers):08x}",
            num_prompt_tokens=prompt,
            num_tokens=prompt,
            max_tokens=1024,
            arrival_time=time.time(),
        )
        return _Request(state, self._rng.randint(20, 900), time.time())

    def _start(self, request: _Request, halfway: bool = False) -> _Request:
        """Its prompt computed; the snapshot says no more of the way there."""
        state = request.state
        generated = self._rng.randint(1, request.num_output_tokens) if halfway else 1
        state.num_tokens += generated
        state.num_computed_tokens = state.num_tokens - 1
        state.num_blocks = -(-state.num_tokens // LIMITS.block_size)
        state.status = "running"
        request.first_token_at = time.time()
        return request

    def _replace_ended(self) -> None:
        for index, request in enumerate(self._running):
            state = request.state
            if state.num_tokens - state.num_prompt_tokens >= request.num_output_tokens:
                self._running[index] = self._start(self._waiting.popleft())
                self._waiting.append(self._arrive())

    def _record(self, now: float) -> None:
        self._steps.append(
            StepRecord(
                step=self._step,
                started_at=now - STEP_S,
                duration_s=STEP_S * self._rng.uniform(0.95, 1.05),
                num_decode_tokens=len(self._running),
                num_decode_seqs=len(self._running),
                num_kv_tokens=sum(request.state.num_tokens for request in self._running),
            )
        )

    def _snapshot(self, now: float) -> EngineSnapshot:
        running = [request.state for request in self._running]
        held = sum(state.num_blocks for state in running)
        in_flight = BatchInFlight(
            started_at=now, num_scheduled_tokens={state.request_id: 1 for state in running}
        )
        return EngineSnapshot(
            version=SNAPSHOT_VERSION,
            engine_id=self._engine_id,
            model="benchmark",
            step=self._step,
            time=now,
            limits=LIMITS,
            running=running,
            waiting=[request.state for request in self._waiting],
            num_free_blocks=max(0, LIMITS.num_gpu_blocks - held),
            in_flight=[in_flight],
            recent_steps=list(self._steps),
        )

    def _sent(self, request: _Request, now: float) -> SentRequest:
        state, first = request.state, request.first_token_at
        return SentRequest(
            request_id=state.request_id[len("cmpl-") : -len("-0-00000000")],
            num_prompt_tokens=state.num_prompt_tokens,
            expected_output_tokens=float(request.num_output_tokens),
            sent_age_ms=(now - request.sent_at) * 1e3,
            has_first_token=first is not None,
            quantiles=quantiles(request.num_output_tokens) if self._has_quantiles else None,
            max_tokens=state.max_tokens,
            num_output_tokens=state.num_tokens - state.num_prompt_tokens,
            first_token_age_ms=None if first is None else (now - first) * 1e3,
            slo=Slo(ttft_ms=2000.0, tpot_ms=100.0),
        )
