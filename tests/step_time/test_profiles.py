"""Profiles as files: saved, loaded, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.step_time.gpus import find_gpu
from predictor.step_time.online import OnlineStepTime
from predictor.step_time.profiles import (
    FittedProfile,
    fitted_profile,
    load_profile,
    save_profile,
    vidur_profile,
)
from predictor.step_time.roofline import RooflineStepTime
from predictor.step_time.vidur_profile import read_profile
from tests.predictor.test_vidur_tables import write_profile
from tests.step_time.engine_steps import LLAMA, steps
from tests.step_time.table_formula import random_shapes
from wire.model_config import ConfigError

A30 = find_gpu("A30")
SHAPES = random_shapes(100)[1:]


def learnt() -> FittedProfile:
    """A profile of an engine that follows the roofline."""
    roofline = RooflineStepTime(LLAMA, A30)
    online = OnlineStepTime(roofline, LLAMA)
    online.observe(list(steps(roofline, 100)))
    return fitted_profile(online, LLAMA, "A30", "a test")


def test_what_was_learnt_survives_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is found by its name in the project's folder, or by its path."""
    monkeypatch.chdir(tmp_path)
    profile = learnt()
    save_profile(profile, Path("config/profiles/llama.json"))
    by_name = load_profile("llama", LLAMA, A30)
    assert by_name == load_profile(Path("config/profiles/llama.json"), LLAMA, A30)
    assert [*profile.seconds_per.values()] == [*by_name.coefficients]  # type: ignore[attr-defined]
    assert 0.02 < profile.mape < 0.06
    assert profile.num_steps == 100


def test_a_vidur_profile_is_the_same_as_a_file_and_as_a_folder(tmp_path: Path) -> None:
    """Up to the digits that are kept."""
    folder = write_profile(tmp_path)
    times = read_profile(folder, LLAMA)
    save_profile(vidur_profile(times, LLAMA, "A30", "a test"), tmp_path / "saved.json")
    from_file = load_profile(tmp_path / "saved.json", LLAMA, A30)
    from_folder = load_profile(str(folder), LLAMA, A30)
    for shape in SHAPES:
        assert from_file.step_s(shape) == pytest.approx(from_folder.step_s(shape), rel=1e-5)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"version": 2}, r"version: Input should be 1 \(got 2\)"),
    ({"kind": "magic"}, r"kind: Input should be 'fitted' or 'vidur' \(got 'magic'\)"),
    ({"extra": 1}, r"extra: Extra inputs are not permitted \(got 1\)"),
    ({"knot": -1}, r"knot: .* \(got -1\)"),
    ({"mape": None}, r"mape: Input should be a valid number \(got None\)"),
    ({"seconds_per": {"step": -1.0}}, r"seconds_per.step: .* \(got -1.0\)"),
    ({"seconds_per": {"step": "fast"}}, r"seconds_per.step: .* \(got 'fast'\)"),
    ({"seconds_per": {}}, r"seconds_per: '\w+' is missing"),
    ({"model_name": "gpt-2"}, r"model_name: is for 'gpt-2', but this unit has 'meta-llama"),
    ({"gpu": "H100"}, r"gpu: is for 'H100', but this unit has 'A30'"),
    ({"tensor_parallel_size": 2}, r"tensor_parallel_size: is for 2, but this unit has 1"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_bad_profile_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The error names file, key and value."""
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(json.loads(learnt().model_dump_json()) | change))
    with pytest.raises(ConfigError, match=message) as caught:
        load_profile(path, LLAMA, A30)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"x": [1, 2], "ms": [1]}, "linear.add: .*x has 2 values, ms 1"),
        ({"x": [2, 1], "ms": [1, 1]}, "linear.add: .*the values of x must rise"),
        ({"x": [], "ms": []}, "linear.add.x: .*at least 1 item"),
    ],
)
def test_a_curve_must_be_one(tmp_path: Path, curve: dict[str, Any], message: str) -> None:
    """Points that cannot be interpolated are refused."""
    times = read_profile(write_profile(tmp_path), LLAMA)
    fields = json.loads(vidur_profile(times, LLAMA, "A30", "a test").model_dump_json())
    fields["linear"]["add"] = curve
    (tmp_path / "bad.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=message):
        load_profile(tmp_path / "bad.json", LLAMA, A30)


def test_a_missing_profile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with those that are there."""
    monkeypatch.chdir(tmp_path)
    save_profile(learnt(), Path("config/profiles/other.json"))
    with pytest.raises(ConfigError, match=r"profile 'llama': neither a file.*\(there: other\)"):
        load_profile("llama", LLAMA, A30)


def test_impossible_points_are_left_out(tmp_path: Path) -> None:
    """An operator that takes a fraction of what it took for fewer tokens was not measured."""
    folder = write_profile(tmp_path)
    table = (folder / "mlp.csv").read_text().splitlines()
    columns, row = table[0].split(","), table[3].split(",")
    assert row[columns.index("num_tokens")] == "200"
    row[columns.index("time_stats.attn_pre_proj.median")] = "0.0018"
    (folder / "mlp.csv").write_text("\n".join([*table[:3], ",".join(row), *table[4:]]))
    times = read_profile(folder, LLAMA)
    assert times.left_out == {"attn_pre_proj": [200]}
    assert times.linear_ms(200)["attn_pre_proj"] == pytest.approx(2)
