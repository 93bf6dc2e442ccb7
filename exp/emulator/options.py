"""What one emulated engine is: the model it pretends to serve, on what, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from predictor.step_time.gpus import Gpu
from predictor.step_time.roofline import num_gpu_blocks
from wire.model_config import ModelConfig
from wire.snapshot import EngineLimits


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    """Everything that ``python -m exp.emulator`` can be told about the engine."""

    model: ModelConfig
    gpu: Gpu
    engine_id: str
    seed: int = 0
    """Of the answers' lengths; with the engine id, of the noise."""
    noise: float = 0.0
    """Standard deviation of the noise on step times, as a share."""
    speed: float = 1.0
    tokenizer: Path | None = None
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    long_prefill_token_threshold: int = 0

    def limits(self) -> EngineLimits:
        """The scheduler's bounds.

        Raises:
            ConfigError: the KV cache could not hold one sequence of ``max_model_len``.
        """
        model = self.model
        return EngineLimits(
            max_num_seqs=model.max_batch_size,
            max_num_batched_tokens=model.chunk_size,
            max_model_len=model.max_model_len,
            block_size=model.block_size,
            num_gpu_blocks=num_gpu_blocks(model, self.gpu),
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            enable_prefix_caching=model.enable_prefix_caching,
            scheduling_policy=self.scheduling_policy,
        )
