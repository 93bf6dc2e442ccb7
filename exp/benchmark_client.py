"""Send a trace to an OpenAI endpoint (a gateway or a vLLM server) and measure what comes back.

The load is open: each request is sent at its time, whether or not earlier ones have ended. TTFT,
TPOT, ITL and E2E are defined as in vLLM's own benchmark. The summary tells apart what was rejected
(429), what failed (another error) and what was lost (no answer, or one that broke off); goodput is
what was answered within the goals. Goals of a class are judged by, not sent; those that a trace's
requests name themselves (x-slo-ttft-ms, x-slo-tpot-ms) are sent and come first.

examples:
  python -m exp.workload_gen --output mixed.jsonl
  python -m exp.benchmark_client --trace mixed.jsonl --slo-ttft-ms short=1000 long=10000
  python -m exp.benchmark_client --trace mixed.jsonl --url http://127.0.0.1:8001 --time-scale 2

The last line printed is JSON: the figures of each class and of all. --output writes a line for each
request as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from tqdm import tqdm

from exp.fleet.arguments import above_zero
from exp.workloads.errors import WorkloadError
from exp.workloads.replay import Goals, Sent, Target, replay, served_model
from exp.workloads.summary import ALL, summarise
from exp.workloads.trace import TracedRequest, read_trace


async def run(
    requests: Sequence[TracedRequest],
    target: Target,
    on_end: Callable[[Sent], object],
    run_id: str | None = None,
) -> list[Sent]:
    """Send all and wait for all; in the order of the trace.

    Requests that give only a number of prompt tokens get the same ones under the same ``run_id``.
    Without one they are new, so that a server's prefix cache holds none of them.
    """
    sent = []
    async for one in replay(requests, target, run_id or uuid.uuid4().hex[:8]):
        on_end(one)
        sent.append(one)
    return sorted(sent, key=lambda one: one.index)


def write_sent(sent: Sequence[Sent], file: Path) -> None:
    """A JSON line for each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in sent))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m exp.benchmark_client",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--trace", type=Path, default=Path(".astrolabe/trace.jsonl"), help="(%(default)s)")
    add("--url", default="http://127.0.0.1:8200", help="of the endpoint (%(default)s)")
    add("--model", help="(default: the first that the endpoint serves)")
    add("--api-key", help="sent as a bearer token")
    add(
        "--time-scale",
        type=above_zero,
        default=1.0,
        help="the trace's times are multiplied by it: 0.5 is twice the load (%(default)g)",
    )
    add(
        "--deadline",
        type=above_zero,
        default=600.0,
        metavar="S",
        help="a request that takes longer is given up and counted as lost (%(default)g)",
    )
    for metric in ("ttft", "tpot"):
        add(
            f"--slo-{metric}-ms",
            nargs="+",
            type=_goal,
            default=[],
            metavar="CLASS=MS",
            help=f"{metric.upper()} goal of a class, such as short=1000",
        )
    add("--output", type=Path, metavar="JSONL", help="write a line for each request")
    return made


def _goal(text: str) -> tuple[str, float]:
    name, _, goal = text.partition("=")
    if not name or not goal:
        raise argparse.ArgumentTypeError(f"must be like short=1000 (got {text})")
    return name, above_zero(goal)


def _goals(options: argparse.Namespace) -> Mapping[str, Goals]:
    ttft, tpot = dict(options.slo_ttft_ms), dict(options.slo_tpot_ms)
    return {
        name: Goals(ttft_ms=ttft.get(name), tpot_ms=tpot.get(name)) for name in {**ttft, **tpot}
    }


async def _measure(options: argparse.Namespace, requests: Sequence[TracedRequest]) -> list[Sent]:
    url = options.url.rstrip("/").removesuffix("/v1")
    target = Target(
        base_url=url,
        model=options.model or await served_model(url, options.api_key),
        api_key=options.api_key,
        deadline_s=options.deadline,
        time_scale=options.time_scale,
        goals=_goals(options),
    )
    with tqdm(total=len(requests), unit="request", disable=None) as progress:

        def on_end(one: Sent) -> None:
            progress.update()
            if one.error is not None:
                tqdm.write(f"{one.request_id} {one.outcome}: {one.error}", file=sys.stderr)

        return await run(requests, target, on_end)


def main(argv: Sequence[str] | None = None) -> int:
    """Send, sum up, print; 1 if a request failed or was lost, 2 for what cannot be used."""
    options = parser().parse_args(argv)
    try:
        _, requests = read_trace(options.trace)
        if not requests:
            raise WorkloadError(f"{options.trace} holds no requests")
        sent = asyncio.run(_measure(options, requests))
    except WorkloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.output is not None:
        write_sent(sent, options.output)
    figures = summarise(sent, max(one.at_s for one in sent) or 1.0)
    print(json.dumps(figures))
    return 1 if figures[ALL]["failed"] or figures[ALL]["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
