"""The plug-in on vLLM's real scheduler classes, driven step by step without a model."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.vllm.environment import MODEL_DIR, ROOT, quiet_environment, vllm_python

pytestmark = pytest.mark.vllm

MODES = pytest.mark.parametrize("mode", ["sync", "async"])


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What every scenario saw."""
    command = [str(vllm_python()), "-m", "tests.vllm.offline_scenarios", str(MODEL_DIR)]
    run = subprocess.run(
        command, cwd=ROOT, env=quiet_environment(), capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


@MODES
def test_decisions_and_statistics_are_stock_vllms(seen: dict[str, Any], mode: str) -> None:
    """Batch for batch the same as without the plug-in, with preemptions and prefix hits."""
    assert seen["plugin"][mode] == seen["stock"][mode]
    assert seen["stock"][mode]["preempted"] > 0
    assert seen["stock"][mode]["hits"] > 0


@MODES
def test_snapshot_says_what_the_scheduler_knows(seen: dict[str, Any], mode: str) -> None:
    """Tokens, blocks, prefix hits and limits are the scheduler's own."""
    contents = seen["contents"][mode]
    snapshot = contents["snapshot"]
    assert [sequence["request_id"] for sequence in snapshot["running"]] == ["a", "b"]
    assert [sequence["request_id"] for sequence in snapshot["waiting"]] == ["c"]
    for sequence in snapshot["running"] + snapshot["waiting"]:
        request_id = sequence["request_id"]
        tokens = [sequence["num_tokens"], sequence.get("num_computed_tokens", 0)]
        assert tokens == contents["tokens"][request_id]
        assert sequence.get("num_blocks", 0) == contents["blocks"][request_id]
    assert snapshot["waiting"][0]["num_cached_tokens"] == contents["hit"] == 96
    assert snapshot["num_free_blocks"] == contents["num_free_blocks"]
    assert snapshot["limits"]["num_gpu_blocks"] == 99
    assert snapshot["limits"]["max_num_seqs"] == 2


def test_sync_engine_has_one_batch_in_flight(seen: dict[str, Any]) -> None:
    """It appears after scheduling, is gone after its results, and is then a recorded step."""
    contents = seen["contents"]["sync"]
    assert contents["class"] == "AstrolabeSyncScheduler"
    [batch] = contents["snapshot"]["in_flight"]
    assert batch["num_scheduled_tokens"] == {"a": 1, "b": 1}
    after = contents["after_update"]
    assert "in_flight" not in after
    assert [step["step"] for step in after["recent_steps"]] == [1, 2]
    assert after["running"][0]["num_tokens"] == contents["snapshot"]["running"][0]["num_tokens"] + 1


def test_async_engine_has_two_batches_in_flight(seen: dict[str, Any]) -> None:
    """Tokens scheduled but not sampled are placeholders, one for each batch in flight."""
    contents = seen["contents"]["async"]
    assert contents["class"] == "AstrolabeAsyncScheduler"
    assert len(contents["snapshot"]["in_flight"]) == 2
    assert contents["snapshot"]["running"][0]["num_output_placeholders"] == 2
    assert len(contents["after_update"]["in_flight"]) == 1
    assert contents["after_update"]["running"][0]["num_output_placeholders"] == 1
    assert contents["snapshot"]["limits"]["async_scheduling"] is True


def test_snapshot_tells_who_gets_no_token_from_a_batch(seen: dict[str, Any]) -> None:
    """Though the scheduler has preempted it since, and forgotten how far it was."""
    snapshot = seen["preempted_in_flight"]
    [waiting] = snapshot["waiting"]
    assert (waiting["request_id"], waiting["status"]) == ("b", "preempted")
    first, second = snapshot["in_flight"]
    assert first["num_scheduled_tokens"] == {"a": 80, "b": 8}
    assert first["prefill_chunks"] == ["b"]
    assert "prefill_chunks" not in second


@MODES
def test_snapshot_lives_as_long_as_the_engine(seen: dict[str, Any], mode: str) -> None:
    """It is there before the first request, and gone after a shutdown."""
    assert seen["contents"][mode]["at_start"]["step"] == 0
    assert seen["contents"][mode]["after_shutdown"] is None


def test_priority_queue_is_in_the_order_of_admission(seen: dict[str, Any]) -> None:
    """vLLM admits the lowest number first."""
    assert seen["priorities"] == ["first", "high", "middle", "low"]


@pytest.mark.parametrize("broken", ["capture", "file", "settings"])
def test_broken_plugin_leaves_the_engine_alone(seen: dict[str, Any], broken: str) -> None:
    """The engine takes every step, the error is logged once, and no old state is left to read."""
    sabotaged, healthy = seen["sabotage"][broken], seen["sabotage"]["healthy"]
    assert sabotaged["num_steps"] == healthy["num_steps"] == 10
    assert len(sabotaged["errors"]) == 1
    assert sabotaged["snapshot"] is None
    assert healthy["errors"] == []
    assert healthy["snapshot"] is not None
