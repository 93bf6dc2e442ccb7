"""Futures of engines from a snapshot on: what vLLM's real scheduler did, and what we predict.

The real ones are recorded in vLLM's environment; ours are played in the project's own, where the
kernel is compiled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from tests.vllm.players import Future, play_kernel, play_reference
from tests.vllm.workloads import Workload, random_workload
from wire.prediction import SentRequest
from wire.snapshot import EngineSnapshot

OTHERS_PROMPTS = "hits on blocks that other requests share, hold or leave"
REUSED_BLOCKS = "a preempted request's own blocks, reused before or after its return"


class Recorded(msgspec.Struct):
    """A snapshot of a workload and what the real scheduler did from it on."""

    seed: int
    """Of the workload."""
    snapshot: EngineSnapshot
    future: Future


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


def from_snapshots(recordings: Iterable[Recorded]) -> dict[str, Any]:
    """The kernel and the reference from a snapshot on, next to the real scheduler."""
    kernel, reference = FromSnapshots(), FromSnapshots()
    for recorded in recordings:
        workload, snapshot = random_workload(recorded.seed), recorded.snapshot
        lengths = {arrival.request_id: arrival.output_length for arrival in workload.arrivals}
        ours = play_kernel(snapshot, sent_requests(workload))
        kernel.compare(workload, recorded.future, ours)
        ours = play_reference(snapshot, lengths.__getitem__)
        reference.compare(workload, recorded.future, ours)
    return {"kernel": kernel.summary(), "reference": reference.summary()}


def sent_requests(workload: Workload) -> list[SentRequest]:
    """What a gateway that knows all lengths would tell."""
    return [
        SentRequest(
            request_id=arrival.request_id,
            num_prompt_tokens=len(arrival.prompt),
            expected_output_tokens=arrival.num_output_tokens,
            max_tokens=arrival.max_tokens,
            priority=arrival.priority,
            has_first_token=True,
        )
        for arrival in workload.arrivals
    ]
