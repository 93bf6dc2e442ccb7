"""``python -m benchmarks.step_time``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.step_time import main
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import attn_decode_ms, attn_prefill_ms, operator_times_ms
from tests.predictor.test_vidur_tables import LINEAR, SHAPE, write_csv
from tests.step_time.engine_steps import LLAMA

A100 = find_gpu("A100-80G")
OPTIONAL = ("input_layernorm", "post_attention_layernorm", "add")


def write_measurements(folder: Path, factor: float) -> None:
    """A profile of a GPU that takes ``factor`` times as long as the roofline says."""
    folder.mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for tokens in (1, 64, 128, 512):
        times = operator_times_ms(LLAMA, A100, tokens)
        columns = {f"time_stats.{n}.median": factor * times[n] for n in (*LINEAR, *OPTIONAL)}
        rows.append({**SHAPE, "vocab_size": 32000, "num_tokens": tokens, **columns})
    write_csv(folder / "mlp.csv", rows)
    decode_ms = factor * attn_decode_ms(LLAMA, A100, 8, 1000)
    prefill_ms = factor * attn_prefill_ms(LLAMA, A100, 1000, 64)
    write_csv(
        folder / "attention.csv",
        [
            {**SHAPE, "batch_size": 8, "prefill_chunk_size": 0, "kv_cache_size": 1000,
             "time_stats.attn_decode.median": decode_ms},
            {**SHAPE, "batch_size": 1, "prefill_chunk_size": 64, "kv_cache_size": 1000,
             "time_stats.attn_prefill.median": prefill_ms},
        ],
    )  # fmt: skip


def test_errors_are_those_of_the_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GPU that takes 1.25 times as long is missed by 20 % everywhere."""
    write_measurements(tmp_path / "a100" / "llama", 1.25)
    assert main(["--profiles", str(tmp_path)]) == 0
    (result,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["gpu"], result["model"], result["impossible_points"]) == ("A100-80G", "llama", 0)
    names = (*LINEAR, *OPTIONAL, "attn_decode", "attn_prefill", "mean", "layer")
    assert [result[name] for name in names] == [20.0] * len(names)


def test_a_folder_without_profiles_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one of a GPU that nobody knows."""
    assert main(["--profiles", str(tmp_path)]) == 2
    assert "mlp.csv" in capsys.readouterr().err
    write_measurements(tmp_path / "abacus" / "llama", 1.0)
    assert main(["--profiles", str(tmp_path)]) == 2
    assert "abacus: not a GPU" in capsys.readouterr().err
