"""How far the roofline is from measured operators: ``python -m benchmarks.step_time``.

``--profiles DIR`` holds Vidur profiles as ``DIR/GPU/MODEL/``: ``mlp.csv``, and ``attention.csv``
where there is one. The roofline knows no more than the model's shape and the GPU's entry in
``predictor/step_time/gpus.py``. Errors are means of |roofline / measured - 1| in percent over all
measured points, of linear operators over those from 64 tokens on; ``mean`` is that of the linear
operators, ``layer`` the error of their sum. Points that cannot be true
(``predictor/step_time/vidur_profile.py``) are left out and counted; ``mean_with_impossible`` has
them in. The last line is the JSON list of what the table shows.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from predictor.step_time.gpus import GPUS, Gpu
from predictor.step_time.roofline import attn_decode_ms, attn_prefill_ms, operator_times_ms
from predictor.step_time.vidur_profile import Curve, plausible, read_attention, read_linear
from wire.model_config import ConfigError, ModelConfig

MIN_TOKENS = 64


def linear_errors(curves: Mapping[str, Curve], model: ModelConfig, gpu: Gpu) -> dict[str, float]:
    """Mean relative error of each operator."""
    errors = {}
    for operator, curve in curves.items():
        points = [(x, y) for x, y in zip(curve.xs, curve.ys, strict=True) if x >= MIN_TOKENS]
        errors[operator] = statistics.fmean(
            abs(float(operator_times_ms(model, gpu, tokens)[operator]) / ms - 1)
            for tokens, ms in points
        )
    return errors


def layer_error(curves: Mapping[str, Curve], model: ModelConfig, gpu: Gpu) -> float:
    """Mean relative error of all linear operators of a layer together."""
    tokens = [int(x) for x in curves["mlp_up_proj"].xs if x >= MIN_TOKENS]
    return statistics.fmean(
        abs(
            sum(float(operator_times_ms(model, gpu, n)[operator]) for operator in curves)
            / sum(curve.at(n) for curve in curves.values())
            - 1
        )
        for n in tokens
    )


def attention_errors(path: Path, model: ModelConfig, gpu: Gpu) -> dict[str, float]:
    """Mean relative error of attention in decodes and in prefills."""
    decodes, prefills = read_attention(path, model)
    decode_errors = [
        abs(attn_decode_ms(model, gpu, batch, kv_tokens) / ms - 1)
        for batch, curve in zip(decodes.sizes, decodes.curves, strict=True)
        for kv_tokens, ms in zip(curve.xs, curve.ys, strict=True)
    ]
    prefill_errors = [
        # A prefill's point is kept as its (query, key) pairs, chunk * (context + chunk / 2).
        abs(attn_prefill_ms(model, gpu, round(pairs / chunk - chunk / 2), chunk) / ms - 1)
        for chunk, curve in zip(prefills.sizes, prefills.curves, strict=True)
        for pairs, ms in zip(curve.xs, curve.ys, strict=True)
    ]
    return {
        "attn_decode": statistics.fmean(decode_errors),
        "attn_prefill": statistics.fmean(prefill_errors),
    }


def compare(folder: Path) -> Iterator[dict[str, Any]]:
    """One comparison for each tensor-parallel size in the profile."""
    gpu = gpu_of(folder.parent.name)
    for model in models_in(folder / "mlp.csv"):
        measured = read_linear(folder / "mlp.csv", model)
        kept = {operator: plausible(curve) for operator, curve in measured.items()}
        errors = linear_errors(kept, model, gpu)
        attention = folder / "attention.csv"
        yield {
            "gpu": gpu.name,
            "model": folder.name,
            "tensor_parallel_size": model.tensor_parallel_size,
            "mean": percent(statistics.fmean(errors.values())),
            "mean_with_impossible": percent(
                statistics.fmean(linear_errors(measured, model, gpu).values())
            ),
            "impossible_points": sum(
                len(measured[operator].xs) - len(kept[operator].xs) for operator in kept
            ),
            "layer": percent(layer_error(kept, model, gpu)),
            **{name: percent(error) for name, error in errors.items()},
            **(
                {n: percent(e) for n, e in attention_errors(attention, model, gpu).items()}
                if attention.exists()
                else {}
            ),
        }


def gpu_of(folder: str) -> Gpu:
    """``a30`` is the A30; ``a100`` the A100-80G, on which Vidur's were measured."""
    for name in (folder.upper(), f"{folder.upper()}-80G"):
        if name in GPUS:
            return GPUS[name]
    raise ConfigError(f"{folder}: not a GPU; known are {', '.join(GPUS)}")


def models_in(path: Path) -> list[ModelConfig]:
    """The shape that a profile was measured for, once for each tensor-parallel size."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = rows[0]
    heads, hidden = int(first["n_head"]), int(first["n_embd"])
    return [
        ModelConfig(
            model_name=path.parent.name,
            max_batch_size=128,
            chunk_size=4096,
            num_layers=1,
            hidden_size=hidden,
            intermediate_size=int(first["n_expanded_embd"]),
            num_attention_heads=heads,
            num_kv_heads=int(first["n_kv_head"]),
            head_dim=hidden // heads,
            vocab_size=int(first["vocab_size"]),
            tensor_parallel_size=size,
        )
        for size in sorted({int(row["num_tensor_parallel_workers"]) for row in rows})
    ]


def percent(share: float) -> float:
    """With one digit."""
    return round(share * 100, 1)


def print_table(results: list[dict[str, Any]]) -> None:
    """A column for each comparison."""
    names = list(dict.fromkeys(name for result in results for name in result))
    for name in names:
        cells = (str(result.get(name, "-")) for result in results)
        print(f"{name:26}" + "".join(f"{cell:>16}" for cell in cells))


def main(arguments: list[str]) -> int:
    """Compare every profile in the folder; 2 when there is none or one cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__)
    parser.add_argument("--profiles", type=Path, required=True, metavar="DIR")
    folder: Path = parser.parse_args(arguments).profiles
    try:
        found = sorted(path.parent for path in folder.glob("*/*/mlp.csv"))
        results = [result for profile in found for result in compare(profile)]
    except (ConfigError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not results:
        print(f"error: no GPU/MODEL/mlp.csv in {folder}", file=sys.stderr)
        return 2
    print_table(results)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
