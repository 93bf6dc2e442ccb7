"""Operator times read from a Vidur-format profile: a folder with ``mlp.csv`` and ``attention.csv``.

Stock Vidur trains random forests on such files and evaluates them on huge grids, which takes
minutes. A profile is a grid already, so times are interpolated between its points instead: linearly
over the number of tokens, and over the two nearest columns of the attention grid. Below the
smallest point the smallest counts; above the largest, times go on rising as they did. Points of a
linear operator that cannot be true, because fewer tokens took far longer, are left out.
"""

from __future__ import annotations

import bisect
import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wire.model_config import ConfigError, ModelConfig

_OPTIONAL_OPERATORS = ("input_layernorm", "post_attention_layernorm", "add")
_OPERATORS = (
    "attn_pre_proj",
    "attn_post_proj",
    "attn_rope",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    *_OPTIONAL_OPERATORS,
)

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Curve:
    """A piecewise-linear function through points with rising ``xs``."""

    xs: Sequence[float]
    ys: Sequence[float]

    def at(self, x: float) -> float:
        """The value at ``x``; constant before the first point, rising on beyond the last."""
        if x <= self.xs[0] or len(self.xs) == 1:
            return self.ys[0]
        if x >= self.xs[-1]:
            return self.ys[-1] + (x - self.xs[-1]) * self._slope_of_upper_half()
        right = bisect.bisect_right(self.xs, x)
        x0, x1 = self.xs[right - 1], self.xs[right]
        y0, y1 = self.ys[right - 1], self.ys[right]
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)

    def _slope_of_upper_half(self) -> float:
        """Of many points, so that one noisy measurement does not tilt what lies beyond."""
        middle = (len(self.xs) - 1) // 2
        rise = (self.ys[-1] - self.ys[middle]) / (self.xs[-1] - self.xs[middle])
        return max(0.0, rise)


@dataclass(frozen=True, slots=True)
class CurveFamily:
    """One curve for each of some rising sizes."""

    sizes: Sequence[int]
    curves: Sequence[Curve]

    def at(self, size: int, x_of: Callable[[int], float]) -> float:
        """The value for ``size``, between the two nearest curves, each read at ``x_of(its size)``.

        Outside the measured sizes the nearest curve is read alone.
        """
        right = bisect.bisect_left(self.sizes, size)
        if right == 0 or right == len(self.sizes):
            right = min(right, len(self.sizes) - 1)
            return self.curves[right].at(x_of(self.sizes[right]))
        low, high = self.sizes[right - 1], self.sizes[right]
        y_low = self.curves[right - 1].at(x_of(low))
        y_high = self.curves[right].at(x_of(high))
        return y_low + (y_high - y_low) * (size - low) / (high - low)


@dataclass(frozen=True, slots=True)
class ProfileTimes:
    """``OperatorTimes`` from measured points."""

    linear: Mapping[str, Curve]
    decode_by_batch: CurveFamily
    """For each batch size, milliseconds over the mean context."""
    prefill_by_chunk: CurveFamily
    """For each chunk, milliseconds over the (query, key) pairs that it attends to."""
    left_out: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Numbers of tokens whose times cannot be true, by operator."""

    def linear_ms(self, num_tokens: int) -> dict[str, float]:
        """See ``OperatorTimes``."""
        return {name: curve.at(num_tokens) for name, curve in self.linear.items()}

    def attn_decode_ms(self, batch_size: int, kv_tokens: int) -> float:
        """See ``OperatorTimes``."""
        growth = max(1.0, batch_size / self.decode_by_batch.sizes[-1])
        return growth * self.decode_by_batch.at(batch_size, lambda _: kv_tokens)

    def attn_prefill_ms(self, kv_tokens: int, q_tokens: int) -> float:
        """See ``OperatorTimes``."""
        if q_tokens > self.prefill_by_chunk.sizes[-1]:
            return self.prefill_by_chunk.curves[-1].at(_pairs(kv_tokens, q_tokens))
        return self.prefill_by_chunk.at(q_tokens, lambda chunk: _pairs(kv_tokens, chunk))


def read_profile(folder: Path, model: ModelConfig) -> ProfileTimes:
    """Read the profile of a model.

    Raises:
        ConfigError: a file is missing, is no table, or has no rows for this model; the message
            names the file and what is wrong.
    """
    decodes, prefills = read_attention(folder / "attention.csv", model)
    measured = read_linear(folder / "mlp.csv", model)
    linear = {operator: plausible(curve) for operator, curve in measured.items()}
    left_out = {
        operator: [int(x) for x in curve.xs if x not in linear[operator].xs]
        for operator, curve in measured.items()
    }
    return ProfileTimes(
        linear=linear,
        decode_by_batch=decodes,
        prefill_by_chunk=prefills,
        left_out={operator: tokens for operator, tokens in left_out.items() if tokens},
    )


def read_linear(path: Path, model: ModelConfig) -> dict[str, Curve]:
    """Milliseconds over tokens of each linear operator, as measured. Raises ConfigError."""
    shape = _shape(model) | {
        "n_head": model.num_attention_heads,
        "n_expanded_embd": model.intermediate_size,
    }
    return _linear_curves(path, list(_rows(path, shape)))


def read_attention(path: Path, model: ModelConfig) -> tuple[CurveFamily, CurveFamily]:
    """Decode and prefill attention, see ``ProfileTimes``. Raises ConfigError."""
    shape = _shape(model) | {
        "n_q_head": model.num_attention_heads,
        "block_size": model.block_size,
    }
    return _attention_curves(path, _rows(path, shape))


def _shape(model: ModelConfig) -> dict[str, int]:
    return {
        "n_kv_head": model.num_kv_heads,
        "n_embd": model.hidden_size,
        "num_tensor_parallel_workers": model.tensor_parallel_size,
    }


def _rows(path: Path, wanted: Mapping[str, int]) -> Iterator[Row]:
    """Rows whose columns have the wanted values."""
    found = False
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = sorted(set(wanted) - set(reader.fieldnames or ()))
            if missing:
                raise ConfigError(f"{path}: columns missing: {', '.join(missing)}")
            for row in reader:
                if all(_number(path, row, name) == value for name, value in wanted.items()):
                    found = True
                    yield row
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not found:
        shape = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise ConfigError(f"{path}: no rows with {shape}")


def _number(path: Path, row: Row, name: str) -> float:
    """A cell as a number; NaN where it is empty."""
    cell = row.get(name) or "nan"
    try:
        return float(cell)
    except ValueError:
        raise ConfigError(f"{path}: {name}: not a number (got {cell!r})") from None


def _linear_curves(path: Path, rows: Sequence[Row]) -> dict[str, Curve]:
    curves = {}
    for operator in _OPERATORS:
        column = f"time_stats.{operator}.median"
        points = [(_number(path, row, "num_tokens"), _number(path, row, column)) for row in rows]
        curve = _curve(points)
        if curve is None and operator not in _OPTIONAL_OPERATORS:
            raise ConfigError(f"{path}: column {column} is missing or empty")
        curves[operator] = curve or Curve([0.0], [0.0])
    return curves


def plausible(curve: Curve) -> Curve:
    """Without points that are less than half of what a few of those before them took.

    Some published profiles have them where a kernel's name was not recognised in the trace.
    """
    kept: list[tuple[float, float]] = []
    for x, y in zip(curve.xs, curve.ys, strict=True):
        before = sorted(y for _, y in kept[-5:])
        if not before or y >= before[len(before) // 2] / 2:
            kept.append((x, y))
    return Curve([x for x, _ in kept], [y for _, y in kept])


def _attention_curves(path: Path, rows: Iterator[Row]) -> tuple[CurveFamily, CurveFamily]:
    decodes: dict[int, list[tuple[float, float]]] = defaultdict(list)
    prefills: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        chunk = _number(path, row, "prefill_chunk_size")
        kv_tokens = _number(path, row, "kv_cache_size")
        if chunk > 0:
            time_ms = _number(path, row, "time_stats.attn_prefill.median")
            prefills[int(chunk)].append((_pairs(kv_tokens, chunk), time_ms))
        elif chunk == 0:
            time_ms = _number(path, row, "time_stats.attn_decode.median")
            decodes[int(_number(path, row, "batch_size"))].append((kv_tokens, time_ms))
    return _family(path, "attn_decode", decodes), _family(path, "attn_prefill", prefills)


def _family(
    path: Path, operator: str, points: Mapping[int, Sequence[tuple[float, float]]]
) -> CurveFamily:
    curves = {size: curve for size in sorted(points) if (curve := _curve(points[size]))}
    if not curves:
        raise ConfigError(f"{path}: no measured {operator}")
    # A size with a single point says nothing about contexts; its neighbours do.
    curves = {size: curve for size, curve in curves.items() if len(curve.xs) > 1} or curves
    return CurveFamily(sizes=list(curves), curves=list(curves.values()))


def _pairs(kv_tokens: float, q_tokens: float) -> float:
    """(query, key) pairs of a causal chunk after a context."""
    return q_tokens * (kv_tokens + q_tokens / 2)


def _curve(points: Sequence[tuple[float, float]]) -> Curve | None:
    """A curve through the mean of the points with equal x; None when there are no points."""
    by_x: dict[float, list[float]] = defaultdict(list)
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            by_x[x].append(y)
    xs = sorted(by_x)
    return Curve(xs, [sum(by_x[x]) / len(by_x[x]) for x in xs]) if xs else None
