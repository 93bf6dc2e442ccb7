"""Random engines in states that vLLM can come to: running, prefilling, preempted, in flight."""

from __future__ import annotations

import random

from predictor.overlay import Population, SimulatedSequence, build_population, newcomer
from wire.prediction import SentRequest
from wire.snapshot import (
    SNAPSHOT_VERSION,
    BatchInFlight,
    EngineLimits,
    EngineSnapshot,
    RequestStatus,
    SequenceState,
)

NOW = 100.0
"""Small, so that differences of times are exact to 1e-14 s."""
MAX_NUM_SEQS = 48
MAX_NUM_BATCHED_TOKENS = 512
MAX_MODEL_LEN = 4096
LONGEST = 1100
"""Tokens of the longest sequence when it has ended."""


class RandomEngine:
    """One engine; the same seed gives the same one."""

    def __init__(self, seed: int) -> None:
        """Draw everything."""
        self._rng = random.Random(seed)
        self._sent: list[SentRequest] = []
        self._is_async = self._rng.random() < 0.3
        self._policy = self._rng.choice(["fcfs", "fcfs", "priority"])
        self._block_size = self._rng.choice([8, 16, 16, 32])
        self._budget = self._rng.choice([64, 128, 256, MAX_NUM_BATCHED_TOKENS])
        num_batches = self._rng.choice([0, 1, 2 if self._is_async else 1])
        self._in_flight: list[dict[str, int]] = [{} for _ in range(num_batches)]
        self.running = [self._running(index) for index in range(self._rng.randint(0, 20))]
        self.waiting = [self._waiting(index) for index in range(self._rng.choice([0, 0, 3, 10]))]
        self.waiting.sort(key=lambda sequence: (sequence.priority, sequence.arrival_time))
        self.limits = self._limits()

    def population(self) -> Population:
        """What a what-if starts from."""
        held = sum(sequence.num_blocks for sequence in self.running)
        ages = sorted(self._rng.choice([0.0, 0.005, 0.02, 1.0]) for _ in self._in_flight)
        snapshot = EngineSnapshot(
            version=SNAPSHOT_VERSION,
            engine_id="random",
            model="random",
            step=1,
            time=NOW,
            limits=self.limits,
            running=self.running,
            waiting=self.waiting,
            num_free_blocks=self.limits.num_gpu_blocks - held,
            in_flight=[
                BatchInFlight(started_at=NOW - age, num_scheduled_tokens=tokens)
                for age, tokens in zip(reversed(ages), self._in_flight, strict=True)
            ],
        )
        return build_population(snapshot, self._sent, NOW)

    def question(self) -> SimulatedSequence:
        """A request that might arrive."""
        prompt, output = self._rng.randint(1, 800), self._rng.randint(1, 200)
        return newcomer("new", prompt, output, self.limits, priority=self._priority())

    def _limits(self) -> EngineLimits:
        """With ample memory or with next to none."""
        held = sum(sequence.num_blocks for sequence in self.running)
        free = self._rng.choice([0, self._rng.randint(0, 10), self._rng.randint(0, 100), 2000])
        slack = self._rng.choice([1, 4, MAX_NUM_SEQS])
        return EngineLimits(
            max_num_seqs=min(MAX_NUM_SEQS, len(self.running) + slack),
            max_num_batched_tokens=self._budget,
            max_model_len=MAX_MODEL_LEN,
            block_size=self._block_size,
            num_gpu_blocks=max(held + free, LONGEST // self._block_size + 2),
            enable_prefix_caching=self._rng.random() < 0.5,
            scheduling_policy="priority" if self._policy == "priority" else "fcfs",
            async_scheduling=self._is_async,
        )

    def _running(self, index: int) -> SequenceState:
        """Three in four decode, the others have a part of their tokens computed."""
        rng, request_id = self._rng, f"running-{index}"
        prompt = rng.choice([rng.randint(1, 500), 16 * rng.randint(1, 8)])
        if rng.random() < 0.75:
            generated = rng.randint(1, 300)
            computed = prompt + generated - 1
            computed += sum(self._schedule(batch, request_id, 1) for batch in self._in_flight)
        else:
            generated = rng.choice([0, 0, rng.randint(1, 100)])
            computed = rng.randint(0, prompt + generated - 1)
            if self._in_flight:
                chunk = rng.randint(1, prompt + generated - computed)
                computed += self._schedule(self._in_flight[0], request_id, chunk)
        return self._sequence(request_id, prompt, generated, computed, "running")

    def _waiting(self, index: int) -> SequenceState:
        """New ones, and preempted ones with what they had generated."""
        rng = self._rng
        prompt, generated = rng.randint(1, 800), rng.choice([0, 0, rng.randint(1, 100)])
        status: RequestStatus = "preempted" if generated else "waiting"
        return self._sequence(f"waiting-{index}", prompt, generated, 0, status)

    def _schedule(self, batch: dict[str, int], request_id: str, num_tokens: int) -> int:
        """Put tokens into a batch in flight, most of the times; how many."""
        room = self._budget - sum(batch.values())
        count = min(num_tokens, room) if self._rng.random() < 0.9 else 0
        if count:
            batch[request_id] = count
        return count

    def _sequence(
        self, request_id: str, prompt: int, generated: int, computed: int, status: RequestStatus
    ) -> SequenceState:
        rng, is_running = self._rng, status == "running"
        output = generated + rng.choice([1, 2, rng.randint(1, 200)])
        self._sent.append(
            SentRequest(
                request_id=request_id,
                num_prompt_tokens=prompt,
                expected_output_tokens=output,
            )
        )
        return SequenceState(
            request_id=request_id,
            num_prompt_tokens=prompt,
            num_tokens=prompt + generated,
            num_computed_tokens=computed,
            max_tokens=2000,
            priority=self._priority(),
            arrival_time=float(len(self._sent)),
            status=status,
            num_blocks=-(-computed // self._block_size),
            num_cached_tokens=0 if is_running else rng.choice([0, 0, rng.randint(0, prompt)]),
        )

    def _priority(self) -> int:
        return self._rng.randint(0, 2) if self._policy == "priority" else 0
