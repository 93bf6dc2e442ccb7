"""Analytic roofline: step times from a model's architecture and a GPU's data sheet.

Each operator takes the time of its arithmetic and of its memory traffic, combined by a p-norm
(``max`` would be too optimistic where both are near), plus a least time per kernel. Counting the
tiles of matrix products and the waves in which they run, or what the L2 cache holds, brought the
mean error of measured operators down by hardly a point, and is left out. Operators have
Vidur's names (``vidur/entities/execution_time.py``, 0.0.26), so that the same figures fill Vidur's
tables. Times of one operator are milliseconds for one layer of one tensor-parallel worker, for one
number of tokens or for an array of them.

In a mixture of experts each token is taken to go to experts drawn by chance, each token by itself.
Real routers prefer some experts, so that fewer are read; the online fit learns that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from predictor.step_time.base import BatchShape
from predictor.step_time.gpus import Gpu
from predictor.step_time.table import (
    HAS_DECODE,
    HAS_PREFILL,
    KV_TOKENS,
    PREFILL_ATTENTION,
    StepTable,
    step_table,
)
from wire.model_config import ConfigError, ModelConfig

OVERLAP_NORM = 1.5
"""1 adds arithmetic and traffic, infinity takes the larger; fitted to measured matrix products."""

Numbers: TypeAlias = Any
"""A number or an array of them, whose results are the same; type checkers have no word for it."""

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
    per_layer += 3 * model.hidden_size * model.intermediate_size * model.num_experts
    per_layer += _router_width(model) * model.hidden_size
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
            f"{-(-model.max_model_len // model.block_size)}; lower it in the model's "
            "configuration, and vLLM's --max-model-len with it"
        )
    return blocks


def operator_times_ms(model: ModelConfig, gpu: Gpu, num_tokens: Numbers) -> dict[str, Numbers]:
    """Milliseconds of each operator whose cost depends on the number of tokens alone."""
    tp = model.tensor_parallel_size
    heads_width = model.num_attention_heads * model.head_dim // tp
    inner = model.intermediate_size // tp
    hidden = model.hidden_size
    kv_width = _kv_heads(model) * model.head_dim

    def matmul(width_in: int, width_out: int) -> Numbers:
        return _matmul_ms(model, gpu, num_tokens, width_in, width_out)

    def expert_matmul(width_in: int, width_out: int) -> Numbers:
        rows = num_tokens * model.num_experts_per_tok
        read = experts_read(model, num_tokens)
        return _matmul_ms(model, gpu, rows, width_in, width_out, num_matrices=read)

    def moving(values_per_token: int, efficiency: float) -> Numbers:
        num_bytes = num_tokens * values_per_token * activation_bytes(model)
        return (num_bytes / (gpu.memory_bytes_per_s * efficiency) + gpu.op_overhead_s) * 1e3

    def rowwise(values_per_token: int) -> Numbers:
        return moving(values_per_token, gpu.efficiency.rowwise)

    norm = rowwise(3 * hidden)  # reads a row twice: for its length, and to scale it
    # Vidur has no operator for it.
    routing = matmul(hidden, _router_width(model)) if model.num_experts > 1 else 0.0

    return {
        "attn_pre_proj": matmul(hidden, heads_width + 2 * kv_width),
        "attn_post_proj": matmul(heads_width, hidden),
        "attn_rope": rowwise(2 * (heads_width + kv_width)),
        "attn_kv_cache_save": rowwise(4 * kv_width),
        "mlp_up_proj": expert_matmul(hidden, 2 * inner) + routing,
        "mlp_act": rowwise(3 * inner * model.num_experts_per_tok),
        "mlp_down_proj": expert_matmul(inner, hidden),
        "input_layernorm": norm,
        "post_attention_layernorm": norm,
        "add": moving(3 * hidden, gpu.efficiency.streaming),
    }


def experts_read(model: ModelConfig, num_tokens: Numbers) -> Numbers:
    """Experts of a layer that at least one of ``num_tokens`` tokens passes, on average."""
    passed_by = 1 - model.num_experts_per_tok / model.num_experts
    return model.num_experts * (1 - passed_by**num_tokens)


def attn_prefill_ms(model: ModelConfig, gpu: Gpu, kv_tokens: int, q_tokens: int) -> float:
    """Prefill attention of ``q_tokens`` new tokens after ``kv_tokens`` that are in the cache."""
    pairs = q_tokens * (kv_tokens + q_tokens / 2)
    traffic = kv_tokens + q_tokens
    return _attention_ms(model, gpu, pairs, traffic) + gpu.attention_overhead_s * 1e3


def attn_decode_ms(model: ModelConfig, gpu: Gpu, batch_size: int, kv_tokens: float) -> float:
    """Decode attention of ``batch_size`` sequences with ``kv_tokens`` in the cache on average."""
    traffic = batch_size * (kv_tokens + 1)
    return _attention_ms(model, gpu, 0.0, traffic) + gpu.attention_overhead_s * 1e3


def all_reduce_ms(model: ModelConfig, gpu: Gpu, num_tokens: Numbers) -> Numbers:
    """One ring all-reduce of the hidden states over the tensor-parallel workers; 0 for one."""
    tp = model.tensor_parallel_size
    if tp == 1:
        return 0.0
    payload = num_tokens * model.hidden_size * activation_bytes(model) * 2 * (tp - 1) / tp
    return (gpu.link_latency_s + payload / gpu.interconnect_bytes_per_s) * 1e3


def send_recv_ms(model: ModelConfig, gpu: Gpu, num_tokens: Numbers) -> Numbers:
    """Handing the hidden states to the next pipeline stage; 0 without stages."""
    if model.pipeline_parallel_size == 1:
        return 0.0
    payload = num_tokens * model.hidden_size * activation_bytes(model)
    return (gpu.link_latency_s + payload / gpu.interconnect_bytes_per_s) * 1e3


def lm_head_ms(model: ModelConfig, gpu: Gpu, num_seqs: Numbers) -> Numbers:
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
        if shape.num_tokens == 0:
            return 0.0
        kernels = (shape.num_prefill_seqs > 0) + (shape.num_decode_seqs > 0)
        attention_s = (
            self._pair_s * shape.prefill_attention
            + self._kv_token_s * shape.num_kv_tokens
            + self._attention_overhead_s * kernels
        )
        return float(self._tokens_s(shape.num_tokens) + self._seqs_s(shape.num_seqs) + attention_s)

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """See ``StepTimeModel``: tokens and sequences in arrays, attention in the weights."""
        token_s, seq_s = np.zeros(max_tokens + 1), np.zeros(max_seqs + 1)
        token_s[1:] = self._tokens_s(np.arange(1.0, max_tokens + 1))
        seq_s[1:] = self._seqs_s(np.arange(1.0, max_seqs + 1))
        weights = {
            KV_TOKENS: self._kv_token_s,
            PREFILL_ATTENTION: self._pair_s,
            HAS_PREFILL: self._attention_overhead_s,
            HAS_DECODE: self._attention_overhead_s,
        }
        return step_table(token_s, max_seqs, seq_s=seq_s, weights=weights)

    def _tokens_s(self, tokens: Numbers) -> Numbers:
        """What the number of tokens alone decides; writing and reading their KV entries too."""
        model, gpu = self.model, self.gpu
        layer_ms = sum(operator_times_ms(model, gpu, tokens).values())
        layer_ms += 2 * all_reduce_ms(model, gpu, tokens)
        handover_ms = (model.pipeline_parallel_size - 1) * send_recv_ms(model, gpu, tokens)
        kv_s = self._kv_token_s * tokens
        return (layer_ms * model.num_layers + handover_ms) / 1e3 + kv_s + gpu.step_overhead_s

    def _seqs_s(self, seqs: Numbers) -> Numbers:
        return lm_head_ms(self.model, self.gpu, seqs) / 1e3

    @property
    def _kv_token_s(self) -> float:
        return _attention_ms(self.model, self.gpu, 0.0, 1.0) / 1e3 * self.model.num_layers

    @property
    def _pair_s(self) -> float:
        return _attention_ms(self.model, self.gpu, 1.0, 0.0) / 1e3 * self.model.num_layers

    @property
    def _attention_overhead_s(self) -> float:
        return self.gpu.attention_overhead_s * self.model.num_layers


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


def _router_width(model: ModelConfig) -> int:
    """Outputs of the product that chooses experts; a dense model has none."""
    return model.num_experts if model.num_experts > 1 else 0


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


def _matmul_ms(
    model: ModelConfig,
    gpu: Gpu,
    num_tokens: Numbers,
    width_in: int,
    width_out: int,
    num_matrices: Numbers = 1,
) -> Numbers:
    """A product of (num_tokens, width_in) with weights (width_in, width_out).

    Where they are shared out among ``num_matrices`` such weights, each is read once.
    """
    rate = gpu.peak_flops(model.dtype) * gpu.efficiency.matmul
    compute_s = 2 * num_tokens * width_in * width_out / rate
    activations = num_tokens * (width_in + width_out) * activation_bytes(model)
    weights = width_in * width_out * weight_bytes(model) * num_matrices
    traffic_s = (weights + activations) / _bandwidth(gpu)
    combined_s = (compute_s**OVERLAP_NORM + traffic_s**OVERLAP_NORM) ** (1 / OVERLAP_NORM)
    return (combined_s + gpu.matmul_overhead_s) * 1e3


def _bandwidth(gpu: Gpu) -> float:
    """Bytes per second at which weights and the KV cache are read."""
    return gpu.memory_bytes_per_s * gpu.efficiency.memory
