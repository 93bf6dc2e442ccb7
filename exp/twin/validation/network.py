"""How long messages between gateway and units take, from a run that is not judged.

The twin has one number for it: sockets, HTTP, the engines' servers, the client's own event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from exp.study.case import Case
from exp.study.records import RequestRecord
from exp.twin.run import run_case
from exp.twin.units import UnitSpec
from exp.workloads.request import WorkloadRequest


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
    """With which the twin's TTFTs of a run are at the median as long as those observed.

    How many messages a request waits for is up to its policy, so that it takes two runs of the twin
    to tell; between them TTFTs grow in a straight line. Never negative.
    """
    short_ms, shorter_ms = (
        _lacking_ms(theirs, run_case(with_network(case, network_ms), requests, specs))
        for network_ms in (0.0, 1.0)
    )
    growth_ms = short_ms - shorter_ms
    return max(0.0, short_ms / growth_ms) if growth_ms > 0 else 0.0


def _lacking_ms(theirs: Sequence[RequestRecord], twins: Sequence[RequestRecord]) -> float:
    """By how much the twin's TTFTs are too short, at the median over the requests."""
    return median(
        their.ttft_ms - twin.ttft_ms
        for their, twin in zip(theirs, twins, strict=True)
        if their.ttft_ms is not None and twin.ttft_ms is not None
    )
