"""Send real prompts through a gateway; show, a line each, what was predicted and what happened.

The gateway's admin token, where it has one, is taken from ``ASTROLABE_GATEWAY_ADMIN_TOKEN``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
from tqdm import tqdm

from exp.hindsight import Hindsight
from exp.open_loop import SentPrompt, poisson_arrivals_s, sample_prompts, send_open_loop
from predictor.step_time.base import BatchShape, StepTime
from predictor.step_time.gpus import GPUS
from predictor.step_time.roofline import RooflineStepTime
from wire.model_config import HF_CONFIG_HELP, load_model_config

HEADER = (
    f"{'#':>4} {'unit':<12} {'policy':<24} {'tokens':>11}"
    f" {'TTFT ms predicted/observed':>27} {'E2E ms predicted/observed':>27}"
)


@dataclass(frozen=True, slots=True)
class Faster:
    """A step-time model ``speed`` times as fast as another (emulators' ``--speed``)."""

    model: StepTime
    speed: float

    def step_s(self, shape: BatchShape) -> float:
        """Seconds that a step with this batch takes."""
        return self.model.step_s(shape) / self.speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send, and what the units are (to replay them in hindsight)."""

    gateway: str
    num_requests: int
    rate_per_s: float
    max_tokens: int
    seed: int
    step_time: StepTime


async def run(load: Load, on_end: Callable[[SentPrompt], None]) -> dict[str, Any]:
    """Send the load; returns the summary.

    Raises:
        aiohttp.ClientError: the gateway does not answer.
    """
    rng = random.Random(load.seed)
    prompts = sample_prompts(load.num_requests, rng)
    arrivals_s = poisson_arrivals_s(len(prompts), load.rate_per_s, rng)
    async with (
        aiohttp.ClientSession() as session,
        openai.AsyncOpenAI(base_url=f"{load.gateway}/v1", api_key="none", max_retries=0) as client,
    ):
        units = await _fetch(session, f"{load.gateway}/admin/units")
        sidecars = {u["name"]: u["predictor_url"] for u in units if u["predictor_url"]}
        hindsight = Hindsight(session, sidecars)
        ended = []
        async for item in send_open_loop(
            client,
            (await client.models.list()).data[0].id,
            prompts,
            arrivals_s,
            max_tokens=load.max_tokens,
            run_id=uuid.uuid4().hex[:8],
            before_sending=hindsight.keep,
        ):
            on_end(item)
            ended.append(item)
    return summarise(ended, hindsight.best_unit_share(ended, load.step_time))


async def _fetch(session: aiohttp.ClientSession, url: str) -> Any:
    token = os.environ.get("ASTROLABE_GATEWAY_ADMIN_TOKEN")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with session.get(url, headers=headers, raise_for_status=True) as response:
        return await response.json()


def summarise(ended: Sequence[SentPrompt], best_unit_share: float | None) -> dict[str, Any]:
    """Latencies and prediction errors; shares and errors are None where nothing was predicted."""
    good = [item for item in ended if item.error is None]
    ttft = [(p, i.observed_ttft_ms) for i in good if (p := i.predicted_ttft_ms) is not None]
    e2e = [(p, i.observed_e2e_ms) for i in good if (p := i.predicted_e2e_ms) is not None]
    return {
        "requests": len(ended),
        "failed": len(ended) - len(good),
        "predicted": len(e2e),
        "fallbacks": sum(item.fallback is not None for item in good),
        "ttft_ms_p50": _quantile([i.observed_ttft_ms for i in good], 50),
        "ttft_ms_p99": _quantile([i.observed_ttft_ms for i in good], 99),
        "e2e_ms_p50": _quantile([i.observed_e2e_ms for i in good], 50),
        "e2e_ms_p99": _quantile([i.observed_e2e_ms for i in good], 99),
        "ttft_mae_ms": _mean([abs(p - o) for p, o in ttft]),
        "e2e_mae_ms": _mean([abs(p - o) for p, o in e2e]),
        "ttft_mape": _mean([abs(p - o) / o for p, o in ttft]),
        "e2e_mape": _mean([abs(p - o) / o for p, o in e2e]),
        "best_unit_share": best_unit_share,
    }


def _quantile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def line(item: SentPrompt) -> str:
    """One row of the table."""
    if item.error is not None:
        return f"{item.index:>4} {item.unit:<12} failed: {item.error}"
    note = f"  ({item.fallback})" if item.fallback else ""
    tokens = f"{item.num_prompt_tokens}+{item.num_output_tokens}"
    ttft = _pair(item.predicted_ttft_ms, item.observed_ttft_ms)
    e2e = _pair(item.predicted_e2e_ms, item.observed_e2e_ms)
    return (
        f"{item.index:>4} {item.unit:<12} {item.policy:<24} {tokens:>11} {ttft:>27} {e2e:>27}{note}"
    )


def _pair(predicted: float | None, observed: float) -> str:
    return f"{'-' if predicted is None else f'{predicted:,.0f}'} / {observed:,.0f}"


def report(summary: dict[str, Any]) -> str:
    """The summary for people."""

    def shown(key: str, unit: str = "ms") -> str:
        value = summary[key]
        if value is None:
            return "unknown"
        return f"{value:.0%}" if unit == "%" else f"{value:,.0f} {unit}"

    return (
        f"\n{summary['requests']} requests, {summary['failed']} failed,"
        f" {summary['fallbacks']} routed by a fallback\n"
        f"  TTFT  p50 {shown('ttft_ms_p50')}, p99 {shown('ttft_ms_p99')};"
        f" mean absolute prediction error {shown('ttft_mae_ms')} ({shown('ttft_mape', '%')})\n"
        f"  E2E   p50 {shown('e2e_ms_p50')}, p99 {shown('e2e_ms_p99')};"
        f" mean absolute prediction error {shown('e2e_mae_ms')} ({shown('e2e_mape', '%')})\n"
        f"  sent to a unit that proved fastest: {shown('best_unit_share', '%')}"
        " (replayed afterwards with true output lengths; within 2 %)"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m exp.first_requests", description=__doc__)
    made.add_argument("--gateway", default="http://127.0.0.1:8200", help="the gateway's address")
    made.add_argument("--requests", type=int, default=40, help="prompts to send (default: 40)")
    made.add_argument(
        "--rate", type=float, default=4.0, help="mean arrivals a second, Poisson (default: 4)"
    )
    made.add_argument("--max-tokens", type=int, default=512, help="longest answer (default: 512)")
    made.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (default: 0)")
    made.add_argument(
        "--model-config",
        type=Path,
        default=Path("config/llama_config.json"),
        help="of the units, for the replay in hindsight (default: %(default)s)",
    )
    made.add_argument("--hf-config", type=Path, help=HF_CONFIG_HELP)
    made.add_argument("--gpu", choices=sorted(GPUS), default="A30", help="of the units")
    made.add_argument("--speed", type=float, default=1.0, help="the emulators' --speed")
    made.add_argument("--output", type=Path, help="write requests and summary here as JSON")
    return made


def main() -> int:
    """Send, show, sum up; 1 if a request failed."""
    options = parser().parse_args()
    model = load_model_config(options.model_config, options.hf_config)
    load = Load(
        gateway=options.gateway.rstrip("/"),
        num_requests=options.requests,
        rate_per_s=options.rate,
        max_tokens=options.max_tokens,
        seed=options.seed,
        step_time=Faster(RooflineStepTime(model, GPUS[options.gpu]), options.speed),
    )
    ended: list[SentPrompt] = []
    print(HEADER)
    with tqdm(total=load.num_requests, unit="request", leave=False, disable=None) as progress:

        def on_end(item: SentPrompt) -> None:
            ended.append(item)
            progress.update()
            tqdm.write(line(item), file=sys.stdout)

        try:
            summary = asyncio.run(run(load, on_end))
        except (aiohttp.ClientError, openai.OpenAIError) as error:
            print(f"{load.gateway} cannot be used: {error}", file=sys.stderr)
            return 1
    print(report(summary))
    if options.output:
        rows = [asdict(item) for item in ended]
        options.output.write_text(json.dumps({"summary": summary, "requests": rows}, indent=1))
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
