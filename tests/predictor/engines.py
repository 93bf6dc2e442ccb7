"""States of small engines, and one model that all of these tests predict for."""

from __future__ import annotations

from pathlib import Path

from predictor.overlay import Population, build_population, newcomer
from predictor.overlay import SimulatedSequence as Sequence
from wire.model_config import ModelConfig, load_model_config
from wire.snapshot import SNAPSHOT_VERSION, EngineLimits, EngineSnapshot, SequenceState

NOW = 1_000_000.0
MODEL_PATH = Path(__file__).parents[2] / "config" / "llama_config.json"
MODEL: ModelConfig = load_model_config(MODEL_PATH)


def limits(num_gpu_blocks: int = 1000, max_num_seqs: int = 48, **others: object) -> EngineLimits:
    """An engine's limits: chunks of 512 tokens, sequences of up to 4,096."""
    return EngineLimits(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=512,
        max_model_len=4096,
        block_size=16,
        num_gpu_blocks=num_gpu_blocks,
        **others,  # type: ignore[arg-type]
    )


def running(request_id: str, prompt: int = 100, generated: int = 10) -> SequenceState:
    """A decoding sequence between two steps."""
    tokens = prompt + generated
    return SequenceState(
        request_id=request_id,
        num_prompt_tokens=prompt,
        num_tokens=tokens,
        num_computed_tokens=tokens - 1,
        max_tokens=1000,
        status="running",
        num_blocks=-(-tokens // 16),
    )


def waiting(request_id: str, prompt: int = 100, priority: int = 0) -> SequenceState:
    """A sequence that has not been scheduled yet."""
    return SequenceState(
        request_id=request_id,
        num_prompt_tokens=prompt,
        num_tokens=prompt,
        max_tokens=1000,
        priority=priority,
    )


def snapshot(
    *sequences: SequenceState,
    engine_limits: EngineLimits | None = None,
    num_free_blocks: int | None = None,
) -> EngineSnapshot:
    """An engine that holds these sequences, just now, with no batch in flight."""
    bounds = engine_limits or limits()
    held = sum(seq.num_blocks for seq in sequences)
    free = bounds.num_gpu_blocks - held if num_free_blocks is None else num_free_blocks
    return EngineSnapshot(
        version=SNAPSHOT_VERSION,
        engine_id="test",
        model=MODEL.model_name,
        step=1,
        time=NOW,
        limits=bounds,
        running=[seq for seq in sequences if seq.status == "running"],
        waiting=[seq for seq in sequences if seq.status != "running"],
        num_free_blocks=free,
    )


def population(*sequences: SequenceState, engine_limits: EngineLimits | None = None) -> Population:
    """What a what-if of such an engine starts from; unknown outputs are 100 tokens long."""
    state = snapshot(*sequences, engine_limits=engine_limits)
    return build_population(state, [], NOW, default_output_tokens=100)


def question(prompt: int = 100, output: int = 50, priority: int = 0) -> Sequence:
    """A hypothetical request."""
    return newcomer("new", prompt, output, limits(), priority=priority)
