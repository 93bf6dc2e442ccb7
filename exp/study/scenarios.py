"""The fleets and workloads that several studies share."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from exp.study.case import Fleet, Goals, UnitGroup, WorkloadSpec
from exp.study.plan import Scenario

QUICK_SHARE = 1 / 3
"""Of the requests, with ``--quick``."""
LLAMA_7B = "config/llama_config.json"
LLAMA_70B = "config/llama70b_config.json"
QWEN_7B = "config/qwen_config.json"
SHAREGPT = WorkloadSpec(source="sharegpt")
CONVERSATIONS = WorkloadSpec(source="conversations")
MIXED = WorkloadSpec(
    source="mixed", prompt_tokens="2000-3500", output_tokens="64-256", long_share=0.1
)
"""Chats, and every tenth request a long prompt."""
GOALS = {
    "short": Goals(ttft_ms=1_000.0, tpot_ms=50.0),
    "long": Goals(ttft_ms=5_000.0, tpot_ms=50.0),
}
"""What is judged to be good, where nothing else is said."""


def fleet(
    *groups: tuple[str, int],
    model: str = LLAMA_7B,
    prefix_caching: bool | None = None,
    num_standby: int = 0,
) -> Fleet:
    """Of (GPU, number of units) pairs."""
    return Fleet(
        groups=tuple(UnitGroup(gpu=gpu, count=count) for gpu, count in groups),
        model_config=model,
        prefix_caching=prefix_caching,
        num_standby=num_standby,
    )


def equal_fleet(num_units: int = 12, model: str = LLAMA_7B) -> Fleet:
    """A30s, as in the paper's main experiment."""
    return fleet(("A30", num_units), model=model)


def shortened(scenarios: Sequence[Scenario], rates_kept: int = 3) -> tuple[Scenario, ...]:
    """As ``--quick`` runs them: fewer requests, and of the rates some, the highest included."""
    return tuple(
        msgspec.structs.replace(
            one,
            workload=with_requests(
                one.workload, max(100, round(one.workload.num_requests * QUICK_SHARE))
            ),
            rates_per_s=_spread(one.rates_per_s, rates_kept),
        )
        for one in scenarios
        if one.is_in_quick
    )


def with_requests(workload: WorkloadSpec, num_requests: int) -> WorkloadSpec:
    """So many."""
    return msgspec.structs.replace(workload, num_requests=num_requests)


def _spread(rates_per_s: tuple[float, ...], kept: int) -> tuple[float, ...]:
    """Evenly over the list, from its end."""
    if len(rates_per_s) <= kept:
        return rates_per_s
    last = len(rates_per_s) - 1
    return tuple(rates_per_s[round(last * (index + 1) / kept)] for index in range(kept))
