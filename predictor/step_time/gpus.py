"""Data sheets of GPUs: peak rates, memory, and the share of the peaks that kernels reach.

Peaks are the vendors' dense figures (without structured sparsity) of one GPU. Memory is what the
driver reports as usable. Efficiencies come from published operator profiles of an A30 and an A100
(``benchmarks/step_time.py`` tells how far off they are); online fitting refines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wire.model_config import ConfigError, DType

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The share of a peak that one class of operators reaches, 0 to 1."""

    matmul: float = 0.75
    """Of the FLOP/s, in large matrix products."""
    attention: float = 0.25
    """Of the FLOP/s, in prefill attention, counting only causally visible pairs."""
    memory: float = 0.8
    """Of the memory bandwidth, in reading weights and the KV cache."""
    rowwise: float = 0.5
    """Of the memory bandwidth, in kernels that give a row to a block of threads and read it value
    by value: norms, activations and rotary embedding."""
    streaming: float = 1.0
    """Of the memory bandwidth, in adding two tensors. Part of them is still in the L2 cache."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator."""

    name: str
    flops: Mapping[DType, float]
    """Peak dense FLOP/s. Without an ``fp8`` entry, fp8 weights are multiplied in 16 bits."""
    memory_bytes_per_s: float
    memory_bytes: int
    interconnect_bytes_per_s: float
    """To the other GPUs of the host, one direction."""
    efficiency: Efficiency = Efficiency()
    op_overhead_s: float = 1.5e-6
    """Least time of one kernel."""
    matmul_overhead_s: float = 4e-6
    """Least time of a matrix product: filling and draining its pipeline of tiles takes longer."""
    attention_overhead_s: float = 25e-6
    """Of planning, attention and the merge of its partial results, in each layer."""
    step_overhead_s: float = 1.5e-3
    """Of a step, outside the model: scheduling, input preparation, sampling."""
    link_latency_s: float = 10e-6
    """Of one collective between GPUs."""

    def peak_flops(self, dtype: DType) -> float:
        """Peak FLOP/s for products of this type."""
        return self.flops.get(dtype, self.flops["float16"])


def _flops(fp32: float, fp16: float, fp8: float | None = None) -> dict[DType, float]:
    """Rates in TFLOP/s to FLOP/s by type; float16 and bfloat16 run at the same rate."""
    rates: dict[DType, float] = {
        "float32": fp32 * 1e12,
        "float16": fp16 * 1e12,
        "bfloat16": fp16 * 1e12,
    }
    if fp8 is not None:
        rates["fp8"] = fp8 * 1e12
    return rates


_DATA_SHEETS = (
    # NVIDIA A30 Tensor Core GPU data sheet, 2021 (HBM2; NVLink bridge 200 GB/s both ways). 165 W
    # keep its clock in long products well below the boost clock that the peak is quoted at.
    Gpu("A30", _flops(10.3, 165), 933e9, 24 * GIB, 100e9, efficiency=Efficiency(matmul=0.64)),
    # NVIDIA A40 data sheet, 2021 (GDDR6; NVLink bridge 112.5 GB/s both ways; ECC takes memory).
    Gpu("A40", _flops(37.4, 149.7), 696e9, 45 * GIB, 56e9),
    # NVIDIA A100 Tensor Core GPU data sheet, 2021, SXM4 (HBM2 and HBM2e; NVLink 600 GB/s).
    Gpu("A100-40G", _flops(19.5, 312), 1555e9, 40 * GIB, 300e9),
    Gpu("A100-80G", _flops(19.5, 312), 2039e9, 80 * GIB, 300e9),
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5 (half of the rates given with sparsity).
    Gpu("H100", _flops(67, 989.5, 1979), 3350e9, 80 * GIB, 450e9),
    # NVIDIA H200 Tensor Core GPU data sheet, SXM5 (HBM3e, 141 GB).
    Gpu("H200", _flops(67, 989.5, 1979), 4800e9, 140 * GIB, 450e9),
    # NVIDIA L4 Tensor Core GPU data sheet, 2023 (GDDR6; PCIe 4 x16; half of the sparse rates).
    Gpu("L4", _flops(30.3, 121, 242.5), 300e9, 22 * GIB, 32e9),
    # NVIDIA L40S data sheet, 2023 (GDDR6; PCIe 4 x16; ECC takes memory).
    Gpu("L40S", _flops(91.6, 362, 733), 864e9, 45 * GIB, 32e9),
    # NVIDIA DGX B200 data sheet, 2024, one of its eight GPUs (HBM3e 8 TB/s, NVLink 1.8 TB/s).
    Gpu("B200", _flops(75, 2250, 4500), 8000e9, 178 * GIB, 900e9),
    # One core of a server CPU (AVX-512): effective values, fitted to 535 steps of SmolLM2-135M in
    # vLLM 0.32 with one thread, bfloat16, batches of 1 to 16 and prefills of 8 to 2000 tokens.
    Gpu(
        "CPU",
        _flops(0.184, 0.184),
        14.1e9,
        4 * GIB,
        14.1e9,
        efficiency=Efficiency(matmul=1.0, attention=0.49, memory=1.0, rowwise=1.0),
        op_overhead_s=1e-6,
        matmul_overhead_s=1e-6,
        attention_overhead_s=3e-6,
        step_overhead_s=9.2e-3,
    ),
)

GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _DATA_SHEETS}


def find_gpu(name: str) -> Gpu:
    """The data sheet of a GPU.

    Raises:
        ConfigError: no such GPU; the message lists those that are known.
    """
    try:
        return GPUS[name]
    except KeyError:
        raise ConfigError(f"unknown GPU {name!r}; known are {', '.join(GPUS)}") from None
