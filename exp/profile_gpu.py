"""Measures a model's operators on a GPU: ``python -m exp.profile_gpu --help``.

Writes a profile in Vidur's format, ``mlp.csv`` and ``attention.csv``, which ``python -m predictor
profile --import-vidur DIR`` reads, and ``machine.json``, which says on what it was measured. Needs
PyTorch. One tensor-parallel worker's share of each operator is measured; communication is not.

On a GPU a CUDA graph of many launches is timed, as vLLM replays its own, so that the time to launch
a kernel from Python does not count. Matrix products go through several copies of their weights,
together larger than the L2 cache: in a model, each layer's weights come from memory. Attention is
PyTorch's over a dense KV cache, and rotary embedding and activation are more than one kernel each;
vLLM's fused kernels are somewhat faster.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from tqdm import tqdm

from wire.model_config import HF_CONFIG_HELP, ConfigError, ModelConfig, load_model_config

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOKENS = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192]
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
CONTEXTS = [32, 128, 512, 1024, 2048, 4096, 8192, 16384]
CHUNKS = [32, 64, 128, 256, 512, 1024, 2048, 4096]
LAUNCHES = 24
"""In a CUDA graph, and at most so many copies of the weights."""

Operator = Callable[[int], object]
"""Runs the operator; the argument says with which copy of its weights."""


class Stopwatch:
    """Times an operator on one device."""

    def __init__(self, device: str, repeats: int) -> None:
        """``repeats`` times are taken of each operator."""
        self.device = device
        self._repeats = repeats

    def times_ms(self, operator: Operator) -> list[float]:
        """Milliseconds of one run, once for each repeat."""
        for index in range(3):
            operator(index)
        once = self._cuda_ms(operator) if self.device == "cuda" else self._cpu_ms(operator)
        return [next(once) for _ in range(self._repeats)]

    def _cpu_ms(self, operator: Operator) -> Iterator[float]:
        while True:
            started = time.perf_counter()
            operator(0)
            yield (time.perf_counter() - started) * 1e3

    def _cuda_ms(self, operator: Operator) -> Iterator[float]:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(LAUNCHES):
                operator(index)
        graph.replay()
        while True:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            yield begin.elapsed_time(end) / LAUNCHES


class Operators:
    """One layer's operators for one tensor-parallel worker of a model."""

    def __init__(self, model: ModelConfig, device: str) -> None:
        """Raises ConfigError for what has no plain products in PyTorch: some types of weights, and
        mixtures of experts.
        """
        if model.dtype not in DTYPES:
            raise ConfigError(f"dtype: cannot be measured (got {model.dtype!r})")
        if model.num_experts > 1:
            raise ConfigError(
                f"num_experts: mixtures of experts cannot be measured yet (got {model.num_experts})"
            )
        workers = model.tensor_parallel_size
        self.model = model
        self.heads = model.num_attention_heads // workers
        self.kv_heads = max(1, model.num_kv_heads // workers)
        self.inner = model.intermediate_size // workers
        self._like: dict[str, Any] = {"dtype": DTYPES[model.dtype], "device": device}
        self._l2_bytes = (
            torch.cuda.get_device_properties(device).L2_cache_size if device == "cuda" else 0
        )

    def linear(self, num_tokens: int) -> Iterator[tuple[str, Operator]]:
        """The operators whose cost depends on the number of tokens alone, by Vidur's names."""
        hidden, head_dim = self.model.hidden_size, self.model.head_dim
        heads_width = self.heads * head_dim
        qkv_width = heads_width + 2 * self.kv_heads * head_dim
        yield "attn_pre_proj", self._product(num_tokens, hidden, qkv_width)
        yield "attn_post_proj", self._product(num_tokens, heads_width, hidden)
        yield "mlp_up_proj", self._product(num_tokens, hidden, 2 * self.inner)
        yield "mlp_down_proj", self._product(num_tokens, self.inner, hidden)
        gate, up = self._tensors(2, num_tokens, self.inner)
        yield "mlp_act", lambda _: silu(gate) * up
        yield "attn_rope", self._rope(num_tokens)
        states, residual = self._tensors(2, num_tokens, hidden)
        (weight,) = self._tensors(1, hidden)
        yield "input_layernorm", lambda _: rms_norm(states, (hidden,), weight)
        yield "post_attention_layernorm", lambda _: rms_norm(states, (hidden,), weight)
        yield "add", lambda _: states + residual

    def fits(self, kv_tokens: int) -> bool:
        """Whether so much KV cache takes less than a quarter of the device's memory."""
        if self._like["device"] == "cpu":
            return True
        token_bytes = 2 * self.kv_heads * self.model.head_dim * 4
        total_bytes = int(torch.cuda.get_device_properties(0).total_memory)
        return kv_tokens * token_bytes < total_bytes / 4

    def decode(self, batch_size: int, kv_tokens: int) -> Operator:
        """Attention of one new token of each sequence over its context."""
        (query,) = self._tensors(1, batch_size, self.heads, 1, self.model.head_dim)
        key, value = self._tensors(2, batch_size, self.kv_heads, kv_tokens, self.model.head_dim)
        return lambda _: scaled_dot_product_attention(query, key, value, enable_gqa=True)

    def prefill(self, chunk: int, kv_tokens: int) -> Operator:
        """Causal attention of a chunk over the context before it and itself."""
        total = kv_tokens + chunk
        (query,) = self._tensors(1, 1, self.heads, chunk, self.model.head_dim)
        key, value = self._tensors(2, 1, self.kv_heads, total, self.model.head_dim)
        mask = causal_lower_right(chunk, total)
        return lambda _: scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=True
        )

    def _product(self, num_tokens: int, width_in: int, width_out: int) -> Operator:
        (states,) = self._tensors(1, num_tokens, width_in)
        weight_bytes = width_in * width_out * states.element_size()
        copies = min(LAUNCHES, 1 + 2 * self._l2_bytes // weight_bytes)
        weights = self._tensors(copies, width_out, width_in)
        return lambda index: linear(states, weights[index % copies])

    def _rope(self, num_tokens: int) -> Operator:
        """Rotates queries and keys, in the halves that Llama rotates."""
        heads, half = self.heads + self.kv_heads, self.model.head_dim // 2
        left, right = self._tensors(2, num_tokens, heads, half)
        cos, sin = self._tensors(2, num_tokens, 1, half)
        return lambda _: (left * cos - right * sin, right * cos + left * sin)

    def _tensors(self, count: int, *shape: int) -> list[torch.Tensor]:
        return [torch.randn(*shape, **self._like) for _ in range(count)]


def measure_linear(
    operators: Operators, watch: Stopwatch, tokens: list[int]
) -> Iterator[dict[str, object]]:
    """Rows of ``mlp.csv``."""
    model = operators.model
    for num_tokens in tokens:
        row: dict[str, object] = {
            "n_head": model.num_attention_heads,
            "n_kv_head": model.num_kv_heads,
            "n_embd": model.hidden_size,
            "n_expanded_embd": model.intermediate_size,
            "vocab_size": model.vocab_size,
            "use_gated_mlp": True,
            "num_tokens": num_tokens,
            "num_tensor_parallel_workers": model.tensor_parallel_size,
        }
        for name, operator in operators.linear(num_tokens):
            row |= statistics_of(name, watch.times_ms(operator))
        yield row


def measure_attention(
    operators: Operators,
    watch: Stopwatch,
    batches: list[int],
    chunks: list[int],
    contexts: list[int],
) -> Iterator[dict[str, object]]:
    """Rows of ``attention.csv``: decodes, then prefill chunks after contexts, 0 included."""
    model = operators.model
    shape = {
        "n_embd": model.hidden_size,
        "n_q_head": model.num_attention_heads,
        "n_kv_head": model.num_kv_heads,
        "block_size": model.block_size,
        "num_tensor_parallel_workers": model.tensor_parallel_size,
        "max_model_len": model.max_model_len,
        "attention_backend": "torch.scaled_dot_product_attention",
    }
    for kv_tokens in contexts:
        for batch_size in batches:
            if not operators.fits(batch_size * kv_tokens):
                continue
            times = watch.times_ms(operators.decode(batch_size, kv_tokens))
            point = {"batch_size": batch_size, "prefill_chunk_size": 0, "kv_cache_size": kv_tokens}
            yield shape | point | {"is_prefill": False} | statistics_of("attn_decode", times)
    for kv_tokens in [0, *contexts]:
        for chunk in chunks:
            if kv_tokens + chunk > model.max_model_len:
                continue
            times = watch.times_ms(operators.prefill(chunk, kv_tokens))
            point = {"batch_size": 1, "prefill_chunk_size": chunk, "kv_cache_size": kv_tokens}
            yield shape | point | {"is_prefill": True} | statistics_of("attn_prefill", times)


def statistics_of(name: str, times_ms: list[float]) -> dict[str, float]:
    """Vidur's columns of one operator."""
    summaries = {
        "min": min(times_ms),
        "max": max(times_ms),
        "mean": statistics.fmean(times_ms),
        "median": statistics.median(times_ms),
        "std": statistics.pstdev(times_ms),
    }
    return {f"time_stats.{name}.{key}": value for key, value in summaries.items()}


def machine(device: str, model: ModelConfig) -> dict[str, str]:
    """What the measurements are of."""
    is_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_gpu else platform.processor() or "CPU",
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "threads": str(torch.get_num_threads()),
        "model_name": model.model_name,
        "dtype": model.dtype,
        "date": time.strftime("%Y-%m-%d"),
    }


def write_csv(path: Path, points: Iterator[dict[str, object]]) -> None:
    """Measure and write every point."""
    rows = list(tqdm(points, desc=path.name, unit="point", disable=None))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str]) -> int:
    """Measure and write the profile; 2 for what cannot be measured here."""
    options = _parser().parse_args(arguments)
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device cuda: PyTorch finds no GPU")
        model = load_model_config(options.model_config, options.hf_config)
        operators = Operators(model, options.device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    watch = Stopwatch(options.device, options.repeats)
    tokens, chunks = ([n for n in sizes if n <= options.max_tokens] for sizes in (TOKENS, CHUNKS))
    batches = [n for n in BATCHES if n <= options.max_batch]
    contexts = [n for n in CONTEXTS if n <= min(options.max_context, model.max_model_len)]
    options.out.mkdir(parents=True, exist_ok=True)
    description = json.dumps(machine(options.device, model), indent=2)
    (options.out / "machine.json").write_text(description + "\n")
    write_csv(options.out / "mlp.csv", measure_linear(operators, watch, tokens))
    write_csv(
        options.out / "attention.csv",
        measure_attention(operators, watch, batches, chunks, contexts),
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exp.profile_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model-config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--hf-config", type=Path, metavar="PATH", help=HF_CONFIG_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--max-tokens", type=int, default=TOKENS[-1], help="in a batch or chunk")
    parser.add_argument("--max-batch", type=int, default=BATCHES[-1], help="sequences that decode")
    parser.add_argument(
        "--max-context", type=int, default=CONTEXTS[-1], help="tokens of a sequence"
    )
    parser.add_argument("--repeats", type=int, default=20, help="times taken of each operator")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
