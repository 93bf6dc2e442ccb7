"""Random loads for a scheduler: every rule that an engine can be given, and memory that is short.

Most loads have prompts in families with a common beginning, so that the prefix cache hits; answers
end by a stop token or by ``max_tokens``; some clients leave.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from predictor.simulator.sequence import BlockHash, Sequence
from wire.snapshot import EngineLimits

MAX_MODEL_LEN = 256
BLOCK_SIZE = 16
LAST_ARRIVAL_STEP = 120
MAX_STEPS = 5_000
"""No workload takes as many."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request and the step before which it comes."""

    step: int
    request_id: str
    prompt: list[int]
    output_length: int
    """The model stops after as many tokens, if it may go on that long."""
    max_tokens: int
    priority: int
    abort_step: int | None
    """The step before which its client leaves."""

    @property
    def arrival_time(self) -> float:
        """In steps. Never the same for two requests, as with a real clock."""
        return self.step + int(self.request_id[1:]) / 1000

    @property
    def num_output_tokens(self) -> int:
        """Tokens that it gets if its client stays."""
        return min(self.output_length, self.max_tokens, MAX_MODEL_LEN - len(self.prompt))

    def to_sequence(self, block_hashes: tuple[BlockHash, ...]) -> Sequence:
        """The same request for the simulator."""
        return Sequence(
            request_id=self.request_id,
            num_prompt_tokens=len(self.prompt),
            max_tokens=self.max_tokens,
            output_length=self.output_length,
            priority=self.priority,
            arrival_time=self.arrival_time,
            block_hashes=block_hashes,
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """An engine and all that happens to it."""

    seed: int
    limits: EngineLimits
    shares_prompts: bool
    """Prompts begin like others, so that what one request computes spares another."""
    arrivals: list[Arrival]
    """In order."""

    @property
    def last_arrival_step(self) -> int:
        """Before it the last request comes."""
        return self.arrivals[-1].step

    def arriving(self, step: int) -> list[Arrival]:
        """What comes before this step."""
        return [arrival for arrival in self.arrivals if arrival.step == step]

    def leaving(self, step: int) -> list[str]:
        """Ids of the requests whose clients leave before this step."""
        return [arrival.request_id for arrival in self.arrivals if arrival.abort_step == step]


def random_workload(seed: int) -> Workload:
    """The same for the same seed."""
    rng = random.Random(seed)
    limits = _limits(rng)
    shares_prompts = rng.random() < 0.7
    families = [[rng.randrange(900) for _ in range(MAX_MODEL_LEN)] for _ in range(3)]
    steps = sorted(rng.randrange(LAST_ARRIVAL_STEP) for _ in range(rng.randrange(5, 40)))
    has_priorities = limits.scheduling_policy == "priority"
    return Workload(
        seed,
        limits,
        shares_prompts,
        [
            Arrival(
                step=step,
                request_id=f"r{index:03d}",
                prompt=_prompt(rng, rng.choice(families) if shares_prompts else []),
                output_length=rng.randrange(1, 80),
                max_tokens=rng.randrange(1, 80),
                priority=rng.randrange(3) if has_priorities else 0,
                abort_step=step + rng.randrange(60) if rng.random() < 0.1 else None,
            )
            for index, step in enumerate(steps)
        ],
    )


def _limits(rng: random.Random) -> EngineLimits:
    is_chunked = rng.random() < 0.9
    return EngineLimits(
        max_num_seqs=rng.choice([2, 8, 16]),
        max_num_batched_tokens=rng.choice([32, 64, 200, 512]) if is_chunked else 512,
        max_model_len=MAX_MODEL_LEN,
        block_size=BLOCK_SIZE,
        # One sequence of the greatest length takes 16.
        num_gpu_blocks=rng.choice([16, 24, 40, 200]),
        long_prefill_token_threshold=rng.choice([0, 0, 24]) if is_chunked else 0,
        enable_chunked_prefill=is_chunked,
        enable_prefix_caching=rng.random() < 0.6,
        scheduling_policy=rng.choice(["fcfs", "fcfs", "priority"]),
        async_scheduling=rng.random() < 0.4,
    )


def _prompt(rng: random.Random, family: list[int]) -> list[int]:
    num_tokens = rng.randrange(1, 200)
    shared = family[: rng.randrange(num_tokens + 1)]
    return shared + [rng.randrange(900) for _ in range(num_tokens - len(shared))]
