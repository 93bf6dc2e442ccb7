"""How long the online length estimator takes, on one core: ``python -m benchmarks.length``.

The last line is a JSON object. All times are of ``OnlineEstimator.estimate``: with tokenising,
inference, and the way to its thread and back. No question is asked twice but for ``cached_us_p50``.

``single_ms_p50``, ``single_ms_p99``: prompts of 200 tokens, one after the other
``batch64_per_s``: prompts a second, 64 at once, of the lengths that ShareGPT's have
``batch64_200_tokens_per_s``: the same with prompts of 200 tokens
``cached_us_p50``: a prompt of 200 tokens that was asked before
``load_s``: to load the model, check it and warm it up
``rss_mb``: memory of the process, with all of the above in it

The prompts are ShareGPT's where the extra ``estimator`` is installed, else random words, as
``prompts`` says. Those of 200 tokens are longer ones cut.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.processes import pin, rss_mb
from length_estimation.model_folder import DEFAULT_FOLDER, TOKENIZER_FILE
from length_estimation.online.estimator import OnlineEstimator
from wire.length import LengthQuestion

BATCH = 64
NUM_TOKENS = 200
NUM_PROMPTS = 4_000
PATIENCE_S = 60.0
SYLLABLES = ["ta", "re", "mi", "con", "ver", "so", "la", "ex", "ple", "tion", "ing", "de", "un"]


def read_prompts() -> tuple[str, list[str]]:
    """What they are, and different ones of all lengths."""
    try:
        # Needs packages of the extra `estimator`, without which the rest runs as well.
        from length_estimation.sharegpt import first_turns, packaged_file

        turns = first_turns(packaged_file())
    except (ImportError, FileNotFoundError):
        rng = random.Random(0)
        return "random words", [_random_words(rng) for _ in range(NUM_PROMPTS)]
    return "ShareGPT", [turn.prompt for turn in itertools.islice(turns, NUM_PROMPTS)]


def _random_words(rng: random.Random) -> str:
    words = ("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(600))
    return " ".join(itertools.islice(words, int(rng.lognormvariate(3.5, 1.2)) + 1))


def of_200_tokens(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The beginnings of those that are longer, then of so many joined; each text is used once."""
    cut, rest = [], ""
    for text in texts:
        rest = f"{rest} {text[:10_000]}"
        encoding = tokenizer.encode(rest, add_special_tokens=False)
        if len(encoding.ids) >= NUM_TOKENS:
            cut.append(rest[: encoding.offsets[NUM_TOKENS - 1][1]])
            rest = ""
    return cut


class Timings:
    """Asks an estimator, and takes the time."""

    def __init__(self, estimator: OnlineEstimator, seconds: float) -> None:
        self._estimator = estimator
        self._seconds = seconds

    async def one_by_one(self, texts: Iterator[str]) -> list[float]:
        """Milliseconds of each."""
        took_ms: list[float] = []
        ends_s = time.perf_counter() + self._seconds
        while len(took_ms) < 2 or time.perf_counter() < ends_s:
            question = _question(next(texts))
            started_s = time.perf_counter()
            await self._estimator.estimate(question)
            took_ms.append((time.perf_counter() - started_s) * 1e3)
        return took_ms

    async def batches(self, texts: Iterator[str]) -> float:
        """Prompts a second, at the median batch."""
        took_s: list[float] = []
        ends_s = time.perf_counter() + self._seconds
        while not took_s or time.perf_counter() < ends_s:
            questions = [_question(next(texts)) for _ in range(BATCH)]
            started_s = time.perf_counter()
            await asyncio.gather(*map(self._estimator.estimate, questions))
            took_s.append(time.perf_counter() - started_s)
        return BATCH / statistics.median(took_s)


def _question(text: str) -> LengthQuestion:
    return LengthQuestion(text=text, num_prompt_tokens=NUM_TOKENS)


def _distinct(texts: Sequence[str]) -> Iterator[str]:
    """Without end: when all were used, each comes again with another first word."""
    for number in itertools.count():
        yield from (f"{number} {text}" if number else text for text in texts)


async def measure(folder: Path, seconds: float) -> dict[str, float | str]:
    """All figures; each takes so many seconds."""
    kind, texts = read_prompts()
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    cut = _distinct(of_200_tokens(texts, tokenizer))
    started_s = time.perf_counter()
    estimator = OnlineEstimator(folder, deadline_s=PATIENCE_S, max_batch=BATCH, max_waiting=BATCH)
    load_s = time.perf_counter() - started_s
    await estimator.start()
    timings = Timings(estimator, seconds)
    try:
        single_ms = await timings.one_by_one(cut)
        figures: dict[str, float | str] = {
            "prompts": kind,
            "single_ms_p50": round(statistics.median(single_ms), 3),
            "single_ms_p99": round(statistics.quantiles(single_ms, n=100)[98], 3),
            "batch64_per_s": round(await timings.batches(_distinct(texts)), 1),
            "batch64_200_tokens_per_s": round(await timings.batches(cut), 1),
        }
        known = next(cut)
        cached_ms = await timings.one_by_one(itertools.repeat(known))
    finally:
        await estimator.close()
    return figures | {
        "cached_us_p50": round(statistics.median(cached_ms) * 1e3, 1),
        "rss_mb": round(rss_mb(os.getpid()), 1),
        "load_s": round(load_s, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    args = parser.parse_args()
    if not pin(os.getpid(), 0):
        print("this system pins no processes: the figures may be those of several cores")
    print(json.dumps(asyncio.run(measure(args.model_folder, args.seconds))))


if __name__ == "__main__":
    main()
