"""The benchmark of what-ifs runs and prints what the documentation quotes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_the_whatif_benchmark_prints_a_row_for_each_state() -> None:
    """Two sizes and few calls: ours is much faster, and tight memory means preemptions."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.whatif", "--quick"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    named = [(row["running"], row["waiting"], row["memory"]) for row in rows]
    assert named == [(8, 0, "ample"), (8, 0, "tight"), (48, 16, "ample"), (48, 16, "tight")]
    for row in rows:
        assert 0 < row["fast_median_us"] <= row["fast_p99_us"]
        assert row["fast_sarathi_median_us"] > 0
        assert row["speedup"] > 20
    ample, tight = rows[2:]
    assert ample["fast_preemptions"] == ample["vidur_preemptions"] == 0
    assert tight["fast_preemptions"] > 0
    assert tight["vidur_preemptions"] > 0
