"""Our schedulers make the decisions of vLLM's own."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import msgspec
import pytest

from tests.vllm.environment import MODEL_DIR, ROOT, quiet_environment, vllm_python
from tests.vllm.futures import Recorded, from_snapshots

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

NUM_WORKLOADS = 300
FIRST_SEED = 230
"""Among these, 327 and 500 preempt a prompt of which a chunk is in flight."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summaries of ``tests.vllm.equality`` and of ``tests.vllm.futures``."""
    recordings = tmp_path_factory.mktemp("equality") / "recordings"
    command = [str(vllm_python()), "-m", "tests.vllm.equality", str(MODEL_DIR)]
    run = subprocess.run(
        [*command, str(FIRST_SEED), str(FIRST_SEED + NUM_WORKLOADS), str(recordings)],
        cwd=ROOT,
        env=quiet_environment(),
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    recorded = msgspec.msgpack.decode(recordings.read_bytes(), type=list[Recorded])
    return result | {"from_snapshots": from_snapshots(recorded)}


def test_workloads_cover_the_rules(seen: dict[str, Any]) -> None:
    """Every rule is in force in many workloads, and memory is short in many."""
    assert seen["contents"]["workloads"] == NUM_WORKLOADS
    assert min(seen["contents"].values()) >= 20
    assert seen["from_the_start"]["preempting_workloads"] >= 100
    assert seen["from_the_start"]["requests_with_prefix_hits"] >= 1000


def test_reference_is_equal_in_every_step(seen: dict[str, Any]) -> None:
    """Batches, their order, victims, queues, counts and free blocks, in every step of all."""
    assert seen["from_the_start"]["steps"] >= 50_000
    assert seen["from_the_start"]["differing"] == []


@pytest.mark.parametrize("player", ["kernel", "reference"])
def test_futures_of_snapshots_are_equal(seen: dict[str, Any], player: str) -> None:
    """From a snapshot on, every batch to the end is the real one, but for what it cannot know:
    which blocks the prefix cache holds for whom.
    """
    summary = seen["from_snapshots"][player]
    assert summary["steps"] >= 10_000
    assert "unknown" not in summary["causes"]
    num_differing = sum(summary["causes"].values())
    assert num_differing <= seen["contents"]["cache_and_shared_prompts"] / 2
    assert summary["equal_steps"] >= 0.7 * summary["steps"]
