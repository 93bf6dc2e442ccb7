"""What a replayed trace came to, by class of requests. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from exp.study.records import RequestRecord
from exp.workloads.replay import Sent

PERCENTILES = (50, 90, 99)
ALL = "all"


def summarise(sent: Sequence[Sent], duration_s: float) -> dict[str, Any]:
    """Figures for each class and for all requests, which were sent within ``duration_s``.

    Latencies are those of answered requests, by the definitions of vLLM's benchmark: a TPOT for
    each request with two tokens or more, an ITL for each gap. ``goodput_share`` counts requests
    answered within their goals, of all that were sent.
    """
    classes = sorted({one.request_class for one in sent})
    by_class = {name: [one for one in sent if one.request_class == name] for name in classes}
    return {name: _figures(part, duration_s) for name, part in {**by_class, ALL: sent}.items()}


def _figures(sent: Sequence[Sent], duration_s: float) -> dict[str, Any]:
    answered = [one for one in sent if one.outcome == "ok"]
    outcomes = Counter(one.outcome for one in sent)
    num_good = sum(one.is_good for one in sent)
    return {
        "requests": len(sent),
        "ok": outcomes["ok"],
        "rejected": outcomes["rejected"],
        "failed": outcomes["failed"],
        "lost": outcomes["lost"],
        "goodput_share": round(num_good / len(sent), 4) if sent else None,
        "goodput_rps": round(num_good / duration_s, 4),
        "output_tokens": sum(one.num_output_tokens for one in answered),
        **_percentiles("ttft_ms", [one.ttft_ms for one in answered if one.ttft_ms is not None]),
        **_percentiles("tpot_ms", [one.tpot_ms for one in answered if one.tpot_ms is not None]),
        **_percentiles("itl_ms", [gap_ms for one in answered for gap_ms in one.itl_ms]),
        **_percentiles("e2e_ms", [one.e2e_ms for one in answered]),
        **_percentiles("late_ms", [one.late_ms for one in sent]),
    }


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """None where there is nothing to take them of."""
    if not values:
        return {f"{name}_p{percent}": None for percent in PERCENTILES}
    found: list[float] = np.percentile(values, PERCENTILES).tolist()
    return {f"{name}_p{p}": round(v, 3) for p, v in zip(PERCENTILES, found, strict=True)}


def as_record(sent: Sent) -> RequestRecord:
    """A row of the results that all backends of studies leave."""
    return RequestRecord(
        request_id=sent.request_id,
        at_s=sent.at_s,
        request_class=sent.request_class,
        session=sent.session,
        outcome=sent.outcome,
        unit=sent.unit or "",
        num_prompt_tokens=sent.num_prompt_tokens,
        num_output_tokens=sent.num_output_tokens,
        num_cached_tokens=sent.num_cached_tokens,
        expected_output_tokens=sent.expected_output_tokens,
        waited_ms=sent.waited_ms,
        ttft_ms=sent.ttft_ms,
        tpot_ms=sent.tpot_ms,
        e2e_ms=sent.e2e_ms if sent.outcome == "ok" else None,
        predicted_ttft_ms=sent.predicted_ttft_ms,
        predicted_e2e_ms=sent.predicted_e2e_ms,
        is_good=sent.is_good,
    )
