"""What a run came to, in the words and by the definitions of vLLM's own benchmark. Pure.

Source: ``calculate_metrics`` in vllm/benchmarks/serve.py, vLLM 0.32. One difference: a stream that
breaks off, or ends in an error, is a failure here; there one chunk makes a request a success.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exp.workloads.replay import Sent

METRICS = {
    "ttft": "Time to first token",
    "tpot": "Time per output token after the first",
    "itl": "Inter-token latency",
    "e2el": "End-to-end latency",
}


def vllm_result(
    sent: Sequence[Sent], duration_s: float, percentiles: Sequence[float], *, has_goals: bool
) -> dict[str, Any]:
    """The figures by vLLM's keys; latencies are those of answered requests.

    Args:
        duration_s: from the first request's time to the last one's end.
        has_goals: without goals there is no goodput.
    """
    answered = [one for one in sent if one.outcome == "ok"]
    total_input = sum(one.num_prompt_tokens for one in answered)
    total_output = sum(one.num_output_tokens for one in answered)
    num_good = sum(one.is_good for one in sent)
    tokens_per_s, concurrent = _peaks(answered)
    result: dict[str, Any] = {
        "duration": duration_s,
        "completed": len(answered),
        "failed": len(sent) - len(answered),
        "total_input_tokens": total_input,
        "total_output_tokens": total_output,
        "request_throughput": len(answered) / duration_s,
        "request_goodput": num_good / duration_s if has_goals else None,
        "output_throughput": total_output / duration_s,
        "total_token_throughput": (total_input + total_output) / duration_s,
        "max_output_tokens_per_s": tokens_per_s,
        "max_concurrent_requests": concurrent,
    }
    for name, values_ms in _values_ms(answered).items():
        result |= _spread(name, values_ms, percentiles)
    return result


def detailed(sent: Sequence[Sent]) -> dict[str, Any]:
    """Lists with a value for each request, by vLLM's keys; times are in seconds."""
    return {
        "input_lens": [one.num_prompt_tokens for one in sent],
        "output_lens": [one.num_output_tokens for one in sent],
        "ttfts": [(one.ttft_ms or 0.0) / 1e3 for one in sent],
        "itls": [[gap_ms / 1e3 for gap_ms in one.itl_ms] for one in sent],
        "latencies": [one.e2e_ms / 1e3 for one in sent],
        "start_times": [_start_s(one) for one in sent],
        "queue_times": [one.late_ms / 1e3 for one in sent],
        "errors": [one.error or "" for one in sent],
    }


def _values_ms(answered: Sequence[Sent]) -> dict[str, list[float]]:
    return {
        "ttft": [one.ttft_ms for one in answered if one.ttft_ms is not None],
        "tpot": [one.tpot_ms for one in answered if one.tpot_ms is not None],
        "itl": [gap_ms for one in answered for gap_ms in one.itl_ms],
        "e2el": [one.e2e_ms for one in answered],
    }


def _spread(
    name: str, values_ms: Sequence[float], percentiles: Sequence[float]
) -> dict[str, float]:
    """As vLLM has it: zeros where there is nothing."""
    values = np.asarray(values_ms or [0.0])
    found = {
        f"mean_{name}_ms": float(values.mean()),
        f"median_{name}_ms": float(np.median(values)),
        f"std_{name}_ms": float(values.std()),
    }
    ranks = np.percentile(values, list(percentiles))
    named = zip(percentiles, ranks, strict=True)
    return found | {f"p{percentile:g}_{name}_ms": float(value) for percentile, value in named}


def _peaks(answered: Sequence[Sent]) -> tuple[float, int]:
    """Chunks, and requests under way, in the fullest second from the first request on."""
    if not answered:
        return 0.0, 0
    first_s = min(map(_start_s, answered))
    seconds = int(max(_start_s(one) + one.e2e_ms / 1e3 for one in answered) - first_s) + 1
    tokens, requests = np.zeros(seconds), np.zeros(seconds)
    for one in answered:
        start_s = _start_s(one) - first_s
        requests[int(start_s) : int(start_s + one.e2e_ms / 1e3) + 1] += 1
        times_s = start_s + np.cumsum([one.ttft_ms or 0.0, *one.itl_ms]) / 1e3
        np.add.at(tokens, np.minimum(times_s.astype(int), seconds - 1), 1)
    return float(tokens.max()), int(requests.max())


def _start_s(one: Sent) -> float:
    return one.at_s + one.late_ms / 1e3
