"""Holds our reference against vLLM's own scheduler over many random workloads.

Runs in vLLM's environment, which has no pytest: ``python -m tests.vllm.equality MODEL_DIR FIRST
LAST RECORDINGS`` prints one JSON object, for ``test_equality.py`` to judge, and writes what the
real scheduler did from snapshots on into a file, for ``futures.py`` to be held against.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.vllm.futures import Recorded
from tests.vllm.reference_equality import SideBySide
from tests.vllm.snapshot_equality import Recording
from tests.vllm.workloads import Workload, random_workload


def contents(workloads: Sequence[Workload]) -> dict[str, int]:
    """How many workloads have what."""
    return {
        "workloads": len(workloads),
        "async": sum(w.limits.async_scheduling for w in workloads),
        "by_priority": sum(w.limits.scheduling_policy == "priority" for w in workloads),
        "prefix_caching": sum(w.limits.enable_prefix_caching for w in workloads),
        "cache_and_shared_prompts": sum(
            w.limits.enable_prefix_caching and w.shares_prompts for w in workloads
        ),
        "unchunked": sum(not w.limits.enable_chunked_prefill for w in workloads),
        "long_prefill_threshold": sum(w.limits.long_prefill_token_threshold > 0 for w in workloads),
        "aborts": sum(a.abort_step is not None for w in workloads for a in w.arrivals),
    }


def from_the_start(workloads: Sequence[Workload], model_dir: Path) -> dict[str, Any]:
    """The reference next to the real scheduler."""
    differing = []
    steps = preemptions = preempting = hits = 0
    for workload in workloads:
        pair = SideBySide(workload, model_dir)
        if difference := pair.try_find_difference():
            differing.append({"seed": workload.seed, **difference})
        steps += pair.num_steps
        preemptions += pair.num_preemptions
        preempting += pair.num_preemptions > 0
        hits += pair.num_hits
    return {
        "steps": steps,
        "preemptions": preemptions,
        "preempting_workloads": preempting,
        "requests_with_prefix_hits": hits,
        "differing": differing,
    }


def record(workloads: Sequence[Workload], model_dir: Path) -> list[Recorded]:
    """What the real scheduler does from a snapshot on."""
    found = []
    for workload in workloads:
        recording = Recording(workload, model_dir, random.Random(workload.seed))
        recording.run()
        if recording.snapshot is not None:
            found.append(Recorded(workload.seed, recording.snapshot, recording.future))
    return found


def main() -> None:
    """Play the workloads with these seeds."""
    logging.disable(logging.WARNING)
    model_dir, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    recordings = Path(sys.argv[4])
    workloads = [random_workload(seed) for seed in range(first, last)]
    result = {
        "contents": contents(workloads),
        "from_the_start": from_the_start(workloads, model_dir),
    }
    recordings.write_bytes(msgspec.msgpack.encode(record(workloads, model_dir)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
