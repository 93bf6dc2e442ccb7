"""The analytic roofline against measured operators, and what must hold for every model."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.step_time.base import BatchShape, batch_shape
from predictor.step_time.gpus import GPUS, find_gpu
from predictor.step_time.roofline import (
    RooflineStepTime,
    attn_decode_ms,
    attn_prefill_ms,
    experts_read,
    num_gpu_blocks,
    num_parameters,
    operator_times_ms,
)
from wire.model_config import ConfigError, ModelConfig, load_model_config

CONFIG = Path(__file__).parents[2] / "config"


def model(name: str, **changes: object) -> ModelConfig:
    return load_model_config(CONFIG / f"{name}_config.json").model_copy(update=changes)


# Medians of Vidur's published profiles, ms per layer, one worker.
MEASURED = [
    ("llama", "A100-80G", "mlp_up_proj", 4096, 3.36),
    ("qwen", "A30", "mlp_up_proj", 1, 0.324),
    ("qwen", "A30", "mlp_up_proj", 128, 0.519),
    ("qwen", "A30", "mlp_up_proj", 1024, 2.564),
    ("qwen", "A30", "mlp_down_proj", 8, 0.183),
    ("qwen", "A30", "mlp_down_proj", 4096, 5.177),
    ("qwen", "A30", "attn_post_proj", 1024, 0.292),
    ("qwen", "A30", "mlp_act", 2048, 0.436),
]


@pytest.mark.parametrize(("name", "gpu", "operator", "num_tokens", "measured_ms"), MEASURED)
def test_operators_are_near_measured_ones(
    name: str, gpu: str, operator: str, num_tokens: int, measured_ms: float
) -> None:
    """Without fitting to the machine, an operator's time is within a quarter of the real one."""
    times = operator_times_ms(model(name), find_gpu(gpu), num_tokens)
    assert times[operator] == pytest.approx(measured_ms, rel=0.25)


def test_attention_is_near_measured_one() -> None:
    """Prefill and decode attention of Qwen2-7B on an A30 (Vidur profile, FlashInfer)."""
    qwen, a30 = model("qwen"), find_gpu("A30")
    assert attn_prefill_ms(qwen, a30, 0, 1984) == pytest.approx(0.888, rel=0.25)
    # A chunk after a long context wastes less on the causal mask than a whole prompt does.
    assert attn_prefill_ms(qwen, a30, 1920, 480) == pytest.approx(0.280, rel=0.45)
    assert attn_decode_ms(qwen, a30, 45, 4032) == pytest.approx(0.476, rel=0.25)
    assert attn_decode_ms(qwen, a30, 17, 1344) == pytest.approx(0.087, rel=0.25)


@pytest.mark.parametrize(
    ("name", "billions"), [("llama", 6.74), ("llama70b", 68.98), ("qwen", 7.62), ("smollm", 0.1345)]
)
def test_parameters_are_those_of_the_real_models(name: str, billions: float) -> None:
    """The architecture in the file adds up to the published number of parameters."""
    assert num_parameters(model(name)) / 1e9 == pytest.approx(billions, rel=0.005)


def test_kv_blocks_follow_from_memory() -> None:
    """What weights leave of the memory becomes KV blocks; a number in the file wins."""
    assert num_gpu_blocks(model("llama"), find_gpu("A30")) == pytest.approx(1052, rel=0.05)
    assert num_gpu_blocks(model("llama", num_gpu_blocks=777), find_gpu("A30")) == 777
    assert num_gpu_blocks(model("llama"), find_gpu("H200")) > num_gpu_blocks(
        model("llama"), find_gpu("A100-80G")
    )


def test_a_model_that_does_not_fit_is_refused() -> None:
    """The error names the model, the GPU and how many blocks are missing."""
    with pytest.raises(ConfigError, match=r"Llama-2-70b-hf does not fit: 4 x L4 hold 0 KV blocks"):
        num_gpu_blocks(model("llama70b"), find_gpu("L4"))
    with pytest.raises(ConfigError, match=r"A30 hold 7 KV blocks, max_model_len 4096 needs 256"):
        num_gpu_blocks(model("llama", num_gpu_blocks=7), find_gpu("A30"))


def test_an_unknown_gpu_is_refused_by_name() -> None:
    """The error says which GPUs are known."""
    with pytest.raises(ConfigError, match=r"unknown GPU 'A31'; known are A30, A40"):
        find_gpu("A31")


@pytest.mark.parametrize("gpu", GPUS)
def test_more_work_takes_longer(gpu: str) -> None:
    """Each feature of a batch adds time, and an empty batch takes none."""
    step_time = RooflineStepTime(model("qwen"), find_gpu(gpu))
    base = batch_shape([(256, 0)], [500] * 8)
    longer = [
        batch_shape([(300, 0)], [500] * 8),
        batch_shape([(256, 512)], [500] * 8),
        batch_shape([(256, 0)], [500] * 9),
        batch_shape([(256, 0)], [2000] * 8),
    ]
    assert all(step_time.step_s(shape) > step_time.step_s(base) for shape in longer)
    assert step_time.step_s(BatchShape()) == 0


def test_a_mixture_reads_the_experts_that_its_tokens_pass() -> None:
    """One token reads its own two, many tokens all, and none computes more than two for each."""
    mixture = model("llama", num_experts=8, num_experts_per_tok=2)
    assert experts_read(mixture, 1) == pytest.approx(2.0)
    assert experts_read(mixture, 2) == pytest.approx(2.0 + 2.0 * 6 / 8)
    assert experts_read(mixture, 1000) == pytest.approx(8.0)
    two = model("llama", intermediate_size=2 * mixture.intermediate_size)
    all_eight = model("llama", intermediate_size=8 * mixture.intermediate_size)
    a100 = find_gpu("A100-80G")
    one_token, many = batch_shape([], [1]), batch_shape([(8192, 0)])
    step = RooflineStepTime(mixture, a100).step_s
    assert step(one_token) == pytest.approx(RooflineStepTime(two, a100).step_s(one_token), rel=0.05)
    assert step(many) < 1.2 * RooflineStepTime(two, a100).step_s(many)
    assert step(many) < 0.5 * RooflineStepTime(all_eight, a100).step_s(many)
    assert num_parameters(mixture) > num_parameters(all_eight)  # by what chooses the experts


def test_tensor_parallelism_pays_but_costs_communication() -> None:
    """Four workers are faster than one, and less than four times as fast."""
    shape = batch_shape([(512, 0)])
    one = RooflineStepTime(model("llama70b", tensor_parallel_size=1), find_gpu("H100"))
    four = RooflineStepTime(model("llama70b"), find_gpu("H100"))
    assert one.step_s(shape) / 4 < four.step_s(shape) < one.step_s(shape)


def test_pipeline_stages_add_handovers() -> None:
    """A batch passes all layers whatever the number of stages, and pays for each hand-over."""
    shape = batch_shape([], [500])
    one = RooflineStepTime(model("llama"), find_gpu("A100-80G")).step_s(shape)
    two = RooflineStepTime(model("llama", pipeline_parallel_size=2), find_gpu("A100-80G"))
    assert one < two.step_s(shape) < 1.01 * one


def test_fp8_needs_the_hardware_for_arithmetic() -> None:
    """fp8 weights halve the traffic everywhere, but double the arithmetic only on newer GPUs."""
    big, small = batch_shape([(4096, 0)]), batch_shape([], [1])
    for gpu, faster in (("A100-80G", False), ("H100", True)):
        sixteen = RooflineStepTime(model("llama"), find_gpu(gpu))
        eight = RooflineStepTime(model("llama", dtype="fp8"), find_gpu(gpu))
        assert eight.step_s(small) < 0.75 * sixteen.step_s(small)
        assert (eight.step_s(big) < 0.75 * sixteen.step_s(big)) is faster


def test_batch_shape_sums_up() -> None:
    """Chunks and contexts become the features of a step record."""
    assert batch_shape([(10, 20), (4, 0)], [7, 8]) == BatchShape(
        num_prefill_tokens=14,
        num_decode_tokens=2,
        num_prefill_seqs=2,
        num_decode_seqs=2,
        num_kv_tokens=35,
        # n * (context after the step - n / 2) of each chunk.
        prefill_attention=10 * 25 + 4 * 2,
        prefill_chunks=((10, 20), (4, 0)),
    )
