"""Analytic roofline: step times from a model's architecture and a GPU's data sheet.

Each operator takes the time of its arithmetic and of its memory traffic, combined by a p-norm
(``max`` would be too optimistic where both are near), plus a least time per kernel. Operators have
Vidur's names (``vidur/entities/execution_time.py``, 0.0.26), so that the same figures fill Vidur's
tables. Times of one operator are milliseconds for one layer of one tensor-parallel worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from predictor.step_time.base import BatchShape
from predictor.step_time.gpus import Gpu
from wire.model_config import ConfigError, ModelConfig

OVERLAP_NORM = 1.5
"""1 adds arithmetic and traffic, infinity takes the larger; fitted to measured matrix products."""

NON_KV_BYTES = 900_000_000
"""Memory that neither weights nor KV cache take: activations, CUDA graphs, the context."""


def weight_bytes(model: ModelConfig) -> int:
    """Bytes of one stored weight."""
    return {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1}[model.dtype]


def activation_bytes(model: ModelConfig) -> int:
    """Bytes of one activation or KV entry; with fp8 weights both stay at 16 bits."""
    return 4 if model.dtype == "float32" else 2


def num_parameters(model: ModelConfig) -> int:
    """Weights of the whole model, norms left out."""
    per_layer = model.hidden_size * (_qkv_width(model) + model.num_attention_heads * model.head_dim)
    per_layer += 3 * model.hidden_size * model.intermediate_size
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return model.num_layers * per_layer + embeddings


def num_gpu_blocks(model: ModelConfig, gpu: Gpu) -> int:
    """KV blocks that a unit of this model holds on GPUs of this kind (``num_gpu_blocks`` if set).

    Raises:
        ConfigError: they cannot hold one sequence of ``max_model_len``.
    """
    blocks = model.num_gpu_blocks or _num_blocks_beside_weights(model, gpu)
    if blocks * model.block_size < model.max_model_len:
        workers = model.tensor_parallel_size * model.pipeline_parallel_size
        raise ConfigError(
            f"{model.model_name} does not fit: {workers} x {gpu.name} hold {blocks} KV blocks, "
            f"max_model_len {model.max_model_len} needs "
            f"{-(-model.max_model_len // model.block_size)}"
        )
    return blocks


def operator_times_ms(model: ModelConfig, gpu: Gpu, num_tokens: int) -> dict[str, float]:
    """Milliseconds of each operator whose cost depends on the number of tokens alone."""
    tp = model.tensor_parallel_size
    heads_width = model.num_attention_heads * model.head_dim // tp
    inner = model.intermediate_size // tp
    hidden = model.hidden_size
    kv_width = _kv_heads(model) * model.head_dim

    def matmul(width_in: int, width_out: int) -> float:
        return _matmul_ms(model, gpu, num_tokens, width_in, width_out)

    def elementwise(values_per_token: int) -> float:
        return _memory_ms(gpu, num_tokens * values_per_token * activation_bytes(model))

    return {
        "attn_pre_proj": matmul(hidden, heads_width + 2 * kv_width),
        "attn_post_proj": matmul(heads_width, hidden),
        "attn_rope": elementwise(2 * (heads_width + kv_width)),
        "attn_kv_cache_save": elementwise(4 * kv_width),
        "mlp_up_proj": matmul(hidden, 2 * inner),
        "mlp_act": elementwise(3 * inner),
        "mlp_down_proj": matmul(inner, hidden),
        "input_layernorm": elementwise(2 * hidden),
        "post_attention_layernorm": elementwise(2 * hidden),
        "add": elementwise(3 * hidden),
    }


def attn_prefill_ms(model: ModelConfig, gpu: Gpu, kv_tokens: int, q_tokens: int) -> float:
    """Prefill attention of ``q_tokens`` new tokens after ``kv_tokens`` that are in the cache."""
    pairs = q_tokens * (kv_tokens + q_tokens / 2)
    return _attention_ms(model, gpu, pairs, kv_tokens + q_tokens) + _attention_launch_ms(gpu)


def attn_decode_ms(model: ModelConfig, gpu: Gpu, batch_size: int, kv_tokens: float) -> float:
    """Decode attention of ``batch_size`` sequences with ``kv_tokens`` in the cache on average."""
    return _attention_ms(model, gpu, 0.0, batch_size * (kv_tokens + 1)) + _attention_launch_ms(gpu)


def all_reduce_ms(model: ModelConfig, gpu: Gpu, num_tokens: int) -> float:
    """One ring all-reduce of the hidden states over the tensor-parallel workers; 0 for one."""
    tp = model.tensor_parallel_size
    if tp == 1:
        return 0.0
    payload = num_tokens * model.hidden_size * activation_bytes(model) * 2 * (tp - 1) / tp
    return (gpu.link_latency_s + payload / gpu.interconnect_bytes_per_s) * 1e3


def send_recv_ms(model: ModelConfig, gpu: Gpu, num_tokens: int) -> float:
    """Handing the hidden states to the next pipeline stage; 0 without stages."""
    if model.pipeline_parallel_size == 1:
        return 0.0
    payload = num_tokens * model.hidden_size * activation_bytes(model)
    return (gpu.link_latency_s + payload / gpu.interconnect_bytes_per_s) * 1e3


def lm_head_ms(model: ModelConfig, gpu: Gpu, num_seqs: int) -> float:
    """The product with the output embedding, for the last token of each sequence."""
    width = model.vocab_size // model.tensor_parallel_size
    return _matmul_ms(model, gpu, num_seqs, model.hidden_size, width)


@dataclass(frozen=True, slots=True)
class RooflineStepTime:
    """The step-time model of one unit; its time for a batch is that through all pipeline stages."""

    model: ModelConfig
    gpu: Gpu

    def step_s(self, shape: BatchShape) -> float:
        """Seconds of one step; an empty batch takes none."""
        tokens = shape.num_tokens
        if tokens == 0:
            return 0.0
        model, gpu = self.model, self.gpu
        kernels = (shape.num_prefill_seqs > 0) + (shape.num_decode_seqs > 0)
        layer_ms = (
            sum(operator_times_ms(model, gpu, tokens).values())
            + _attention_ms(model, gpu, shape.prefill_attention, shape.num_kv_tokens + tokens)
            + kernels * _attention_launch_ms(gpu)
            + 2 * all_reduce_ms(model, gpu, tokens)
        )
        handover_ms = (model.pipeline_parallel_size - 1) * send_recv_ms(model, gpu, tokens)
        head_ms = lm_head_ms(model, gpu, shape.num_seqs)
        return (layer_ms * model.num_layers + handover_ms + head_ms) / 1e3 + gpu.step_overhead_s


def _num_blocks_beside_weights(model: ModelConfig, gpu: Gpu) -> int:
    """Blocks in the memory that weights and activations leave."""
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    weights = num_parameters(model) * weight_bytes(model) / workers
    free = gpu.memory_bytes * model.gpu_memory_utilization - weights - NON_KV_BYTES
    layers = -(-model.num_layers // model.pipeline_parallel_size)
    return max(int(free // (model.block_size * layers * _kv_token_bytes(model))), 0)


def _qkv_width(model: ModelConfig) -> int:
    """Outputs of the fused query, key and value projection."""
    return (model.num_attention_heads + 2 * model.num_kv_heads) * model.head_dim


def _kv_heads(model: ModelConfig) -> int:
    """KV heads of one tensor-parallel worker; fewer heads than workers are replicated."""
    return max(1, model.num_kv_heads // model.tensor_parallel_size)


def _kv_token_bytes(model: ModelConfig) -> int:
    """KV bytes of one token in one layer of one worker."""
    return 2 * _kv_heads(model) * model.head_dim * activation_bytes(model)


def _attention_ms(model: ModelConfig, gpu: Gpu, pairs: float, kv_tokens: float) -> float:
    """Two products per visible (query, key) pair, and reading ``kv_tokens`` of the cache once.

    The two parts add up, so that a batch needs only the sums of its sequences.
    """
    heads_width = model.num_attention_heads * model.head_dim // model.tensor_parallel_size
    rate = gpu.flops["float32" if model.dtype == "float32" else "float16"]
    compute_s = 4 * heads_width * pairs / (rate * gpu.efficiency.attention)
    traffic_s = kv_tokens * _kv_token_bytes(model) / _bandwidth(gpu)
    return (compute_s + traffic_s) * 1e3


def _attention_launch_ms(gpu: Gpu) -> float:
    """Planning, attention and the merge of its partial results are a kernel each."""
    return 3 * gpu.op_overhead_s * 1e3


def _matmul_ms(
    model: ModelConfig, gpu: Gpu, num_tokens: int, width_in: int, width_out: int
) -> float:
    """A product of (num_tokens, width_in) with weights (width_in, width_out)."""
    rate = gpu.peak_flops(model.dtype) * gpu.efficiency.matmul
    compute_s = 2 * num_tokens * width_in * width_out / rate
    traffic = width_in * width_out * weight_bytes(model)
    traffic += num_tokens * (width_in + width_out) * activation_bytes(model)
    traffic_s = traffic / _bandwidth(gpu)
    combined_s = math.pow(
        math.pow(compute_s, OVERLAP_NORM) + math.pow(traffic_s, OVERLAP_NORM), 1 / OVERLAP_NORM
    )
    return (combined_s + gpu.op_overhead_s) * 1e3


def _memory_ms(gpu: Gpu, num_bytes: float) -> float:
    """A kernel that only moves data."""
    rate = gpu.memory_bytes_per_s * gpu.efficiency.elementwise
    return (num_bytes / rate + gpu.op_overhead_s) * 1e3


def _bandwidth(gpu: Gpu) -> float:
    """Bytes per second at which weights and the KV cache are read."""
    return gpu.memory_bytes_per_s * gpu.efficiency.memory
