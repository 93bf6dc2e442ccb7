"""Settings from a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from global_scheduler.__main__ import read_settings

PROJECT = Path(__file__).parents[2]
STATIC = ["--env-file", str(PROJECT / "config/router_static.env")]
DYNAMIC = ["--env-file", str(PROJECT / "config/router_dynamic.env")]


@pytest.fixture(autouse=True)
def nothing_of_adasplit_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have some."""
    for name in ("WORKER_CONCURRENCY_LIMIT", "RASP_STEAL_COOLDOWN"):
        monkeypatch.delenv(name, raising=False)


def test_the_static_router_is_adasplits_baseline() -> None:
    """A fixed partition, no stealing, eight requests a unit, first come first served."""
    settings = read_settings(STATIC)
    assert (settings.pools, settings.num_long_units, settings.stealing) == ("static", 2, "off")
    assert (settings.worker_concurrency_limit, settings.queue_order) == (8, "fifo")
    assert (settings.policy, settings.provisioning) == ("least_outstanding", "off")


def test_the_dynamic_router_is_adasplits_own() -> None:
    """Q-HAP and RASP with its figures, and its limit that lets requests wait in the gateway."""
    settings = read_settings(DYNAMIC)
    limits = settings.regime_rules.qhap
    assert (settings.pools, settings.stealing) == ("qhap", "rasp")
    assert (limits.scale_up_above, limits.scale_down_below) == (10, 2)
    assert (limits.min_short, limits.cooldown_s) == (1, 5.0)
    assert settings.rasp_tau_cool_s == 2.0
    assert (settings.worker_concurrency_limit, settings.queue_order) == (8, "fifo")
    assert (settings.policy, settings.provisioning) == ("least_outstanding", "off")


def test_adasplits_variable_is_read_wherever_ours_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a file, and in the environment, which comes before the file."""
    path = tmp_path / "gateway.env"
    path.write_text("WORKER_CONCURRENCY_LIMIT=12\n")
    assert read_settings(["--env-file", str(path)]).worker_concurrency_limit == 12
    monkeypatch.setenv("WORKER_CONCURRENCY_LIMIT", "16")
    assert read_settings(DYNAMIC).worker_concurrency_limit == 16
    assert read_settings([*DYNAMIC, "--worker-concurrency-limit", "4"]).first_limit == 4
    path.write_text("RASP_STEAL_COOLDOWN=3\nASTROLABE_GATEWAY_WORKER_CONCURRENCY_LIMIT=5\n")
    monkeypatch.delenv("WORKER_CONCURRENCY_LIMIT")
    settings = read_settings(["--env-file", str(path)])
    assert (settings.rasp_tau_cool_s, settings.first_limit) == (3.0, 5)
    monkeypatch.setenv("RASP_STEAL_COOLDOWN", "4")
    assert read_settings(["--env-file", str(path)]).rasp_tau_cool_s == 4.0


def test_a_setting_without_its_prefix_is_refused(tmp_path: Path) -> None:
    """As misspelt ones are: it would change nothing."""
    path = tmp_path / "gateway.env"
    path.write_text("POOLS=static\n")
    with pytest.raises(ValidationError, match="POOLS"):
        read_settings(["--env-file", str(path)])


def test_flags_come_before_the_environment_and_that_before_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nearer to the command, the stronger."""
    monkeypatch.setenv("ASTROLABE_GATEWAY_STEALING", "rasp")
    monkeypatch.setenv("ASTROLABE_GATEWAY_QUEUE_ORDER", "sjf")
    settings = read_settings([*STATIC, "--queue-order", "edf"])
    assert (settings.pools, settings.stealing, settings.queue_order) == ("static", "rasp", "edf")


def test_a_misspelt_setting_in_the_file_is_refused(tmp_path: Path) -> None:
    """It would change nothing, and nobody would notice."""
    path = tmp_path / "gateway.env"
    path.write_text("ASTROLABE_GATEWAY_POOL=static\n")
    with pytest.raises(ValidationError, match="pool"):
        read_settings(["--env-file", str(path)])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The gateway does not start without it."""
    path = tmp_path / "none.env"
    command = [sys.executable, "-m", "global_scheduler", "--env-file", str(path)]
    ended = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 2
    assert str(path) in ended.stderr
