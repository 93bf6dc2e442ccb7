"""Send requests to an OpenAI endpoint (the gateway, a vLLM server) and measure what comes back.

The load is open: each request is sent at its time, whether or not earlier ones have ended. Flags,
metrics and result files follow vLLM's own benchmark (vllm bench serve). The summary tells apart
what was rejected (429), what failed (another error) and what was lost (no answer, or one that broke
off); goodput is what was answered within the goals.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from exp.benchmark.vllm_results import METRICS, detailed, vllm_result
from exp.fleet.arguments import above_zero, at_least
from exp.study.tables import to_table, write_table
from exp.workloads.build import build_workload
from exp.workloads.errors import WorkloadError
from exp.workloads.options import (
    DATA_SETS,
    SOURCES,
    TRACE,
    add_workload_options,
    workload_spec,
    zero_or_more,
)
from exp.workloads.replay import Goals, Sent, Target, send_all, served_model
from exp.workloads.summary import ALL, as_record, summarise
from exp.workloads.trace import TracedRequest, read_trace, traced

EPILOG = f"""\
data sets:
{DATA_SETS}
  {TRACE}          a file of exp.workload_gen, times, goals and all

examples:
  python -m exp.benchmark.benchmark_serving --request-rate 4 --num-prompts 200 --goodput ttft:500
  python -m exp.benchmark.benchmark_serving --dataset-name azure --arrivals trace \\
      --dataset-path AzureLLMInferenceTrace_conv.csv --request-rate 4
  python -m exp.benchmark.benchmark_serving --dataset-name trace --dataset-path mixed.jsonl \\
      --goodput short:ttft:1000 long:ttft:10000 --save-result
"""
GOALS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2el": "e2e_ms"}
ALL_AT_ONCE = "inf"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m exp.benchmark.benchmark_serving",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--base-url", default="http://127.0.0.1:8200", help="of the endpoint (%(default)s)")
    add(
        "--backend",
        choices=("openai", "openai-chat"),
        default="openai-chat",
        help="texts go to /v1/completions or /v1/chat/completions; token ids always to the former"
        " (%(default)s)",
    )
    add("--model", help="(default: the first that the endpoint serves)")
    add("--api-key", help="sent as a bearer token")
    add("--dataset-name", choices=(*SOURCES, TRACE), default="sharegpt", help="(%(default)s)")
    add_workload_options(made)
    _add_sending(made)
    _add_results(made)
    return made


def _add_sending(made: argparse.ArgumentParser) -> None:
    add = made.add_argument_group("sending").add_argument
    add(
        "--request-rate",
        type=_rate,
        default=4.0,
        help=f"a second; {ALL_AT_ONCE}: all at once (%(default)g)",
    )
    add("--time-scale", type=above_zero, default=1.0, help="a trace's times are multiplied by it")
    add("--max-concurrency", type=at_least(1), help="others wait here until these have ended")
    add("--num-warmups", type=at_least(0), default=0, help="requests sent before, not measured")
    add(
        "--deadline",
        type=above_zero,
        default=600.0,
        metavar="S",
        help="a request that takes longer is given up and counted as lost (%(default)g)",
    )
    add("--disable-tqdm", action="store_true", help="no progress bar")


def _add_results(made: argparse.ArgumentParser) -> None:
    add = made.add_argument_group("results").add_argument
    add(
        "--goodput",
        nargs="+",
        type=_goal,
        default=[],
        metavar="[CLASS:]METRIC:MS",
        help="goals in milliseconds: ttft, tpot or e2el, of a class of requests or of all",
    )
    add("--metric-percentiles", type=_percentiles, default=(50.0, 90.0, 99.0), metavar="P,P...")
    add("--save-result", action="store_true", help="write JSON and, a row a request, Parquet")
    add("--save-detailed", action="store_true", help="lists of each request in the JSON as well")
    add("--result-dir", type=Path, default=Path("results/benchmark"), help="(%(default)s)")
    add("--result-filename", metavar="JSON", help="(default: backend, rate, model and time)")
    add("--label", help="begins the file's name (default: the backend)")


def _rate(text: str) -> float:
    return float("inf") if text == ALL_AT_ONCE else above_zero(text)


def _goal(text: str) -> tuple[str, str, float]:
    words = ("*", *text.split(":"))[-3:]
    if len(words) != 3 or words[1] not in GOALS or text.count(":") > 2:
        raise argparse.ArgumentTypeError(f"must be like ttft:500 or long:ttft:5000 (got {text!r})")
    return words[0], GOALS[words[1]], zero_or_more(words[2])


def _percentiles(text: str) -> tuple[float, ...]:
    found = tuple(zero_or_more(word) for word in text.split(","))
    if max(found) > 100:
        raise argparse.ArgumentTypeError(f"percentiles are at most 100 (got {text!r})")
    return found


def goals_of(given: Sequence[tuple[str, str, float]]) -> Mapping[str, Goals]:
    """By class; a class keeps the goals for all that it has none of its own for."""
    common = {name: goal_ms for owner, name, goal_ms in given if owner == "*"}
    return {
        owner: Goals(**{**common, **{name: ms for one, name, ms in given if one == owner}})
        for owner, _, _ in given
    }


def requests_of(options: argparse.Namespace) -> list[TracedRequest]:
    """What is to be sent.

    Raises:
        WorkloadError: there is nothing, or it cannot be read.
    """
    if options.dataset_name == TRACE:
        if options.dataset_path is None:
            raise WorkloadError("--dataset-name trace needs --dataset-path")
        _, requests = read_trace(Path(options.dataset_path))
        if not requests:
            raise WorkloadError(f"{options.dataset_path} holds no requests")
        return requests
    rate_per_s = 1.0 if options.request_rate == float("inf") else options.request_rate
    built = build_workload(workload_spec(options), rate_per_s, options.seed)
    return [traced(one, options.max_model_len, as_text=True) for one in built]


async def measure(
    options: argparse.Namespace, requests: Sequence[TracedRequest]
) -> tuple[Target, list[Sent], float]:
    """Send all; where to, what came of each, and the seconds that it took."""
    url = options.base_url.rstrip("/").removesuffix("/v1")
    is_at_once = options.dataset_name != TRACE and options.request_rate == float("inf")
    target = Target(
        base_url=url,
        model=options.model or await served_model(url, options.api_key),
        api_key=options.api_key,
        deadline_s=options.deadline,
        time_scale=0.0 if is_at_once else options.time_scale,
        max_concurrency=options.max_concurrency,
        are_chats=options.backend == "openai-chat",
        goals=goals_of(options.goodput),
    )
    run_id = uuid.uuid4().hex[:8]  # token ids that no prefix cache holds yet
    warm_ups = [requests[index % len(requests)] for index in range(options.num_warmups)]
    await send_all(warm_ups, replace(target, time_scale=0.0), f"{run_id}-warm-up")
    with tqdm(total=len(requests), unit="request", disable=options.disable_tqdm or None) as bar:

        def on_end(one: Sent) -> None:
            bar.update()
            if one.error is not None:
                tqdm.write(f"{one.request_id} {one.outcome}: {one.error}", file=sys.stderr)

        started_s = time.perf_counter()
        sent = await send_all(requests, target, run_id, on_end)
        return target, sent, time.perf_counter() - started_s


def result_of(
    options: argparse.Namespace, target: Target, sent: Sequence[Sent], duration_s: float
) -> dict[str, Any]:
    """The JSON result: vLLM's keys, and ``by_class``."""
    rate = options.request_rate
    result = {
        "date": datetime.now().astimezone().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": options.backend,
        "backend": options.backend,
        "label": options.label,
        "model_id": target.model,
        "tokenizer_id": options.tokenizer,
        "num_prompts": len(sent),
        "request_rate": rate if rate < float("inf") else ALL_AT_ONCE,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        **vllm_result(
            sent, duration_s, options.metric_percentiles, has_goals=bool(options.goodput)
        ),
        "by_class": summarise(sent, duration_s),
    }
    return result | (detailed(sent) if options.save_detailed else {})


def table_of(result: Mapping[str, Any], percentiles: Sequence[float]) -> str:
    """For people."""
    counts = result["by_class"][ALL]
    told = ", ".join(f"{counts[name]} {name}" for name in ("ok", "rejected", "failed", "lost"))
    lines = [f"{result['num_prompts']} requests in {result['duration']:.1f} s: {told}"]
    for name in ("request_throughput", "request_goodput", "output_throughput"):
        if result[name] is not None:
            unit = "tokens/s" if name == "output_throughput" else "requests/s"
            lines.append(f"{name.replace('_', ' ').capitalize():<40}{result[name]:>10.2f} {unit}")
    words = ["mean", *(f"p{percentile:g}" for percentile in percentiles)]
    lines.append(f"{'':<40}" + "".join(f"{word:>10}" for word in words) + " ms")
    for name, title in METRICS.items():
        values = "".join(f"{result[f'{word}_{name}_ms']:>10.2f}" for word in words)
        lines.append(f"{title:<40}{values}")
    return "\n".join(lines)


def save(options: argparse.Namespace, result: Mapping[str, Any], sent: Sequence[Sent]) -> Path:
    """Write both files; the path of the JSON.

    Raises:
        OSError: they cannot be written.
    """
    model = result["model_id"].rpartition("/")[2]
    label = options.label or options.backend
    usual = f"{label}-{result['request_rate']}qps-{model}-{result['date']}.json"
    file: Path = options.result_dir / (options.result_filename or usual)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    write_table(to_table([as_record(one) for one in sent]), file.with_suffix(".parquet"))
    return file


def main(argv: Sequence[str] | None = None) -> int:
    """Send, sum up, print; 1 if a request failed or was lost, 2 for what cannot be used."""
    options = parser().parse_args(argv)
    try:
        target, sent, duration_s = asyncio.run(measure(options, requests_of(options)))
        result = result_of(options, target, sent, duration_s)
        print(table_of(result, options.metric_percentiles))
        if options.save_result or options.save_detailed:
            print(f"written to {save(options, result, sent)}")
    except (WorkloadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = result["by_class"][ALL]
    return 1 if counts["failed"] or counts["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
