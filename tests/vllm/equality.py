"""Holds our schedulers against vLLM's own over many random workloads.

Runs in vLLM's environment, which has no pytest: ``python -m tests.vllm.equality MODEL_DIR FIRST
LAST`` prints one JSON object, for ``test_equality.py`` to judge.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.vllm.players import Future, play_kernel, play_reference
from tests.vllm.reference_equality import SideBySide
from tests.vllm.snapshot_equality import Recording, sent_requests
from tests.vllm.workloads import Workload, random_workload

OTHERS_PROMPTS = "hits on blocks that other requests share, hold or leave"
REUSED_BLOCKS = "a preempted request's own blocks, reused before or after its return"


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


class FromSnapshots:
    """Counts how one kind of what-if fares."""

    def __init__(self) -> None:
        self._steps = self._equal = self._preemptions = 0
        self._differing: list[dict[str, Any]] = []

    def compare(self, workload: Workload, real: Future, ours: Future) -> None:
        """Count one future."""
        num_equal = real.num_equal(ours)
        self._steps += len(real.batches)
        self._equal += num_equal
        self._preemptions += real.num_preemptions
        if real != ours:
            self._differing.append(
                {
                    "seed": workload.seed,
                    "cause": _cause(workload),
                    "step": num_equal,
                    "real": str(real.batches[num_equal : num_equal + 1]),
                    "ours": str(ours.batches[num_equal : num_equal + 1]),
                }
            )

    def summary(self) -> dict[str, Any]:
        """The counts, and every workload that differs."""
        causes = Counter(difference["cause"] for difference in self._differing)
        return {
            "steps": self._steps,
            "equal_steps": self._equal,
            "preemptions": self._preemptions,
            "causes": dict(causes),
            "differing": self._differing,
        }


def _cause(workload: Workload) -> str:
    """A snapshot counts blocks; it does not say what they hold or which are reused first."""
    if not workload.limits.enable_prefix_caching:
        return "unknown"
    return OTHERS_PROMPTS if workload.shares_prompts else REUSED_BLOCKS


def from_snapshots(workloads: Sequence[Workload], model_dir: Path) -> dict[str, Any]:
    """The kernel and the reference from a snapshot on, next to the real scheduler."""
    kernel, reference = FromSnapshots(), FromSnapshots()
    for workload in workloads:
        recording = Recording(workload, model_dir, random.Random(workload.seed))
        recording.run()
        snapshot, real = recording.snapshot, recording.future
        if snapshot is None:
            continue
        lengths = {arrival.request_id: arrival.output_length for arrival in workload.arrivals}
        kernel.compare(workload, real, play_kernel(snapshot, sent_requests(workload)))
        reference.compare(workload, real, play_reference(snapshot, lengths.__getitem__))
    return {"kernel": kernel.summary(), "reference": reference.summary()}


def main() -> None:
    """Play the workloads with these seeds."""
    logging.disable(logging.WARNING)
    model_dir, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    workloads = [random_workload(seed) for seed in range(first, last)]
    result = {
        "contents": contents(workloads),
        "from_the_start": from_the_start(workloads, model_dir),
        "from_snapshots": from_snapshots(workloads, model_dir),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
