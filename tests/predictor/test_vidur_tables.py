"""Vidur's tables from the roofline and from measured profiles."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from predictor.step_time.gpus import find_gpu
from predictor.step_time.vidur_profile import ProfileTimes, read_profile
from predictor.step_time.vidur_tables import RooflineTimes, build_tables, kv_granularity
from tests.predictor.engines import MODEL, limits
from wire.model_config import ConfigError
from wire.snapshot import EngineLimits

GPU = find_gpu("A30")
SHAPE = {
    "n_head": 32, "n_q_head": 32, "n_kv_head": 32, "n_embd": 4096, "n_expanded_embd": 11008,
    "block_size": 16, "num_tensor_parallel_workers": 1,
}  # fmt: skip
LINEAR = ("attn_pre_proj", "attn_post_proj", "attn_rope", "mlp_up_proj", "mlp_act", "mlp_down_proj")


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Write a table with the columns of its rows."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(set().union(*rows)))
        writer.writeheader()
        writer.writerows(rows)


def write_profile(folder: Path) -> Path:
    """A profile in Vidur's format whose times are simple functions of the work."""
    write_csv(
        folder / "mlp.csv",
        [
            {**SHAPE, "num_tokens": tokens}
            | {f"time_stats.{name}.median": tokens / 100 for name in LINEAR}
            for tokens in (1, 100, 200, 400)
        ],
    )
    prefills: list[dict[str, object]] = [
        {**SHAPE, "batch_size": 1, "prefill_chunk_size": chunk, "kv_cache_size": kv,
         "time_stats.attn_prefill.median": chunk * (kv + chunk / 2) / 1e6}
        for chunk in (64, 256) for kv in (0, 1000, 3000)
    ]  # fmt: skip
    decodes: list[dict[str, object]] = [
        {**SHAPE, "batch_size": batch, "prefill_chunk_size": 0, "kv_cache_size": kv,
         "time_stats.attn_decode.median": batch * kv / 1e6}
        for batch in (1, 8, 32) for kv in (0, 1000, 3000)
    ]  # fmt: skip
    write_csv(folder / "attention.csv", [*prefills, *decodes])
    return folder


@pytest.fixture
def profile(tmp_path: Path) -> ProfileTimes:
    """The profile above, read back."""
    return read_profile(write_profile(tmp_path), MODEL)


@pytest.mark.parametrize(
    "bounds",
    [
        limits(),
        limits(max_num_seqs=600),
        EngineLimits(
            max_num_seqs=5, max_num_batched_tokens=13, max_model_len=100, block_size=16,
            num_gpu_blocks=9,
        ),
    ],
)  # fmt: skip
def test_every_key_that_vidur_looks_up_is_there(bounds: EngineLimits) -> None:
    """At the edges of an engine's limits, rounded as Vidur rounds."""
    tables = build_tables(RooflineTimes(MODEL, GPU), MODEL, GPU, bounds)
    step = tables.kv_granularity
    most_tokens = max(bounds.max_num_batched_tokens, bounds.max_num_seqs)
    for tokens in (1, most_tokens):
        assert (-(-tokens // 8) * 8,) in tables.operators["mlp_up_proj"]
        assert (tokens,) in tables.operators["attn_kv_cache_save"]
    for context in (1, bounds.max_model_len, bounds.max_model_len + 1):
        rounded = -(-context // step) * step
        assert (bounds.max_num_seqs, rounded) in tables.operators["attn_decode"]
        assert (rounded, -(-bounds.max_num_batched_tokens // 32) * 32) in tables.operators[
            "attn_prefill"
        ]


def test_long_contexts_do_not_make_tables_huge() -> None:
    """At most 256 contexts and a few."""
    assert [kv_granularity(n) for n in (2048, 4096, 4097, 131072)] == [16, 16, 32, 512]


def test_a_profile_is_met_at_its_points_and_between(profile: ProfileTimes) -> None:
    """And goes on beyond them as it was."""
    for tokens in (1, 150, 400, 800):
        assert profile.linear_ms(tokens)["mlp_up_proj"] == pytest.approx(tokens / 100)
    for batch, kv in ((1, 1000), (8, 2000), (20, 500), (64, 1000), (32, 4000)):
        assert profile.attn_decode_ms(batch, kv) == pytest.approx(batch * kv / 1e6)
    for q, kv in ((64, 1000), (256, 2000), (512, 1000), (256, 6000)):
        assert profile.attn_prefill_ms(kv, q) == pytest.approx(q * (kv + q / 2) / 1e6)
    between = profile.attn_prefill_ms(1000, 160)
    assert profile.attn_prefill_ms(1000, 64) < between < profile.attn_prefill_ms(1000, 256)


def test_a_prefill_key_holds_the_chunk_as_well(profile: ProfileTimes) -> None:
    """A profile's context does not: (320, 64) is a chunk of 64 after 256 tokens."""
    tables = build_tables(profile, MODEL, GPU, limits())
    assert tables.operators["attn_prefill"][(320, 64)] == profile.attn_prefill_ms(256, 64)
    assert all(math.isfinite(t) for table in tables.operators.values() for t in table.values())


def test_a_bad_profile_is_refused(tmp_path: Path) -> None:
    """The message names the file and what is wrong with it."""
    with pytest.raises(ConfigError, match=r"attention.csv: .*No such file"):
        read_profile(tmp_path, MODEL)
    write_profile(tmp_path)
    other = MODEL.model_copy(update={"hidden_size": 1024})
    with pytest.raises(ConfigError, match=r"attention.csv: no rows with .*n_embd=1024"):
        read_profile(tmp_path, other)
    write_csv(tmp_path / "mlp.csv", [{**SHAPE, "num_tokens": "many"}])
    with pytest.raises(ConfigError, match=r"mlp.csv: num_tokens: not a number \(got 'many'\)"):
        read_profile(tmp_path, MODEL)
    write_csv(tmp_path / "mlp.csv", [{**SHAPE, "num_tokens": 8}])
    with pytest.raises(ConfigError, match=r"mlp.csv: column .*attn_pre_proj.* missing or empty"):
        read_profile(tmp_path, MODEL)
    (tmp_path / "attention.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"attention.csv: columns missing: block_size"):
        read_profile(tmp_path, MODEL)
