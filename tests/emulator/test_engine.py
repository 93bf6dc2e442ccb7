"""The emulator's engine: continuous batching, timing, memory pressure and its canned answers."""

from __future__ import annotations

import math
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from exp.emulator.answers import make_answer, output_length
from exp.emulator.engine import StepTimer
from exp.emulator.tokens import (
    EstimatingEncoder,
    TokenizerEncoder,
    count_tokens,
    hash_blocks,
    pack_ids,
)
from predictor.simulator.batch import Batch, Chunk
from predictor.step_time.base import batch_shape
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from tests.emulator.process import MODEL, TINY_MODEL, RunningEmulator, run_emulator
from tests.simulator.tracing import sequence
from wire.model_config import ModelConfig


def complete(emulator: RunningEmulator, prompt: str, max_tokens: int) -> float:
    """Let an answer of exactly this length be generated; returns the seconds that it took."""
    with openai.OpenAI(base_url=f"{emulator.url}/v1", api_key="none", max_retries=0) as client:
        started_at = time.monotonic()
        answer = client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=max_tokens, extra_body={"ignore_eos": True}
        )
        duration_s = time.monotonic() - started_at
    assert answer.usage is not None
    assert answer.usage.completion_tokens == max_tokens
    return duration_s


def test_under_memory_pressure_everyone_is_served(tmp_path: Path) -> None:
    """Eight long answers in memory for three are preempted, and all end with all their tokens."""
    with (
        run_emulator(tmp_path, "--speed", "20", num_gpu_blocks=40, max_model_len=640) as emulator,
        ThreadPoolExecutor(8) as pool,
    ):
        prompts = [f"{index} " * 100 for index in range(8)]
        list(pool.map(lambda prompt: complete(emulator, prompt, 150), prompts))
        assert emulator.metric("vllm:num_preemptions_total") > 0
        assert emulator.metric("vllm:generation_tokens_total") == 8 * 150
        assert emulator.snapshot().num_free_blocks == 40
        assert emulator.snapshot().num_preemptions > 0


def test_steps_do_not_drift(tmp_path: Path) -> None:
    """A long answer takes the sum of its steps' times, and an idle engine starts at once.

    It never takes less; where this process or the engine lost its core, the next one tells.
    """
    model = ModelConfig.model_validate(TINY_MODEL)
    step_time = RooflineStepTime(model, find_gpu("A30"))
    expected_s = step_time.step_s(batch_shape([(2, 0)]))
    expected_s += sum(step_time.step_s(batch_shape([], [2 + n])) for n in range(399))
    with run_emulator(tmp_path) as emulator:
        complete(emulator, "warm up", 1)
        steps_when_idle = emulator.snapshot().step
        time.sleep(0.2)
        assert emulator.snapshot().step == steps_when_idle
        took_s: list[float] = []
        while len(took_s) < 5 and min(took_s, default=math.inf) > 1.1 * expected_s:
            took_s.append(complete(emulator, "No drift", 400))
        assert min(took_s) == pytest.approx(expected_s, rel=0.1)


def test_noise_has_mean_one_and_is_seeded() -> None:
    """The same seed gives the same durations; on average they are the model's, over the speed."""
    model = ModelConfig.model_validate(TINY_MODEL)
    step_time = RooflineStepTime(model, find_gpu("A30"))
    batch = Batch([Chunk(sequence("a", 9), 9, 0, samples=True)])

    def durations() -> list[float]:
        timer = StepTimer(step_time, random.Random(7), noise=0.2, speed=4.0)
        return [timer.duration_s(batch) for _ in range(2000)]

    drawn = durations()
    expected_s = step_time.step_s(batch.shape()) / 4
    assert drawn == durations()
    assert statistics.mean(drawn) == pytest.approx(expected_s, rel=0.02)
    assert statistics.stdev(drawn) == pytest.approx(0.2 * expected_s, rel=0.1)


def test_lengths_are_like_sharegpts() -> None:
    """Half of the answers are shorter than 262 tokens and nine in ten shorter than 623."""
    lengths = sorted(output_length(f"prompt {index}".encode(), seed=1) for index in range(4000))
    assert lengths[2000] == pytest.approx(262, rel=0.06)
    assert lengths[3600] == pytest.approx(623, rel=0.08)


def test_an_answer_depends_on_prompt_and_seed_alone() -> None:
    """Asking again, or with another limit, gives the same answer; another seed another one."""
    first = make_answer(b"prompt", 1, limit=50, ignore_eos=False, stop=[])
    assert first == make_answer(b"prompt", 1, limit=500, ignore_eos=False, stop=[])
    assert first != make_answer(b"prompt", 2, limit=50, ignore_eos=False, stop=[])


def test_tokens_of_text_and_of_ids() -> None:
    """Text counts a token for each four bytes, ids count themselves, and nothing counts one."""
    assert count_tokens(EstimatingEncoder().encode("123456789")) == 3
    assert count_tokens(pack_ids([5, 6, 7])) == 3
    assert count_tokens(b"") == 1


def test_block_hashes_are_chained() -> None:
    """A block's hash tells its tokens and all before it; blocks that are not full have none."""
    blocks = hash_blocks(b"aaaabbbbccccdd", block_size=1)
    assert len(blocks) == 3
    assert hash_blocks(b"aaaabbbbzzzz", block_size=1)[:2] == blocks[:2]
    assert set(hash_blocks(b"zzzzbbbbcccc", block_size=1)).isdisjoint(blocks)


def test_a_real_tokenizer_can_be_used(tmp_path: Path) -> None:
    """With a tokenizer file, or the folder that holds it, tokens are the tokenizer's."""
    vocabulary = {"[UNK]": 0, "north": 1, "star": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert TokenizerEncoder(path).encode("north star west") == pack_ids([1, 2, 0])
