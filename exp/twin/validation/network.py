"""How long messages between gateway and units take, from a run that is not judged.

The twin has one number for it: sockets, HTTP, the engines' servers, the client's own event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from exp.study.case import Case
from exp.study.records import RequestRecord
from exp.twin.run import run_case
from exp.twin.units import UnitSpec
from exp.workloads.request import WorkloadRequest

PROBED_MS = 10.0
ROUNDS = 3
TRIMMED_PERCENT = 10
"""At either end, of the differences between requests."""


def with_network(case: Case, network_ms: float) -> Case:
    """The case with messages that take so long, one way."""
    twin = msgspec.structs.replace(case.twin, network_ms=network_ms)
    return msgspec.structs.replace(case, twin=twin)


def fitted_network_ms(
    case: Case,
    theirs: Sequence[RequestRecord],
    requests: Sequence[WorkloadRequest] | None = None,
    specs: Sequence[UnitSpec] | None = None,
) -> float:
    """With which the twin's TTFTs of a run are on average as long as those observed.

    How many messages a request waits for is up to its policy, so that the twin's own TTFTs have to
    tell. Never negative.
    """

    def lacking_ms(network_ms: float) -> float:
        return _lacking_ms(theirs, run_case(with_network(case, network_ms), requests, specs))

    lacks_ms = lacking_ms(0.0)
    growth = (lacks_ms - lacking_ms(PROBED_MS)) / PROBED_MS
    if growth <= 0:
        return 0.0
    network_ms = max(0.0, lacks_ms / growth)
    for _ in range(ROUNDS):
        network_ms = max(0.0, network_ms + lacking_ms(network_ms) / growth)
    return network_ms


def _lacking_ms(theirs: Sequence[RequestRecord], twins: Sequence[RequestRecord]) -> float:
    """By how much the twin's TTFTs are too short: a mean without the extremes, as what happens to
    single requests may differ. Not a median: TTFTs end with steps, and most would not change."""
    lacks_ms = np.array(
        [
            their.ttft_ms - twin.ttft_ms
            for their, twin in zip(theirs, twins, strict=True)
            if their.ttft_ms is not None and twin.ttft_ms is not None
        ]
    )
    if not lacks_ms.size:  # nothing was answered, which is found out elsewhere
        return 0.0
    low, high = np.percentile(lacks_ms, (TRIMMED_PERCENT, 100 - TRIMMED_PERCENT))
    return float(lacks_ms[(lacks_ms >= low) & (lacks_ms <= high)].mean())
