"""Clients that ask random questions, and judge whether each of them got an answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from exp.soaking.questions import Question, draw
from exp.workloads.streams import Answered, send

DEADLINE_S = 300.0
"""After which a request counts as lost."""
MOST_AT_ONCE = 300
RATE_CHANGES_EVERY_S = 10.0
KEPT_PROBLEMS = 20


@dataclass(slots=True)
class Tally:
    """What has come of the requests so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Answered, by outcome; ``left`` are clients that went away, ``withheld`` was not sent."""
    statuses: Counter[int] = field(default_factory=Counter)
    num_problems: int = 0
    problems: list[str] = field(default_factory=list)
    """The first ones."""

    def add(self, question: Question, answered: Answered) -> None:
        """Count an answer, and note what is wrong with it."""
        self.outcomes["refused nonsense" if question.is_nonsense else answered.outcome] += 1
        if answered.status is not None:
            self.statuses[answered.status] += 1
        problem = try_problem(question, answered)
        if problem is None:
            return
        self.num_problems += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(f"{question.path} {question.body[:80]!r}: {problem}")


def try_problem(question: Question, answered: Answered) -> str | None:
    """What is wrong: every request gets a whole answer, or an error in OpenAI's JSON."""
    if answered.outcome == "lost":
        return f"no answer: {answered.error}"
    if answered.outcome == "ok":
        if question.is_nonsense:
            return "nonsense was answered"
        expected = question.num_output_tokens
        if expected is not None and answered.num_output_tokens != expected:
            return f"{answered.num_output_tokens} tokens came instead of {expected}"
        return None
    if not answered.is_openai_error:
        return f"unclear: {answered.error}"
    if answered.outcome == "rejected" and not answered.headers.get("retry-after"):
        return f"429 without Retry-After: {answered.error}"
    is_refused = answered.status is not None and 400 <= answered.status < 500
    if is_refused and answered.outcome == "failed" and not question.is_nonsense:
        return f"a sound request was refused: {answered.error}"
    return None


async def ask(
    url: str,
    model: str,
    most_per_s: float,
    rng: random.Random,
    tally: Tally,
    is_over: Callable[[], bool],
) -> None:
    """Ask until it is over, then wait for all answers. The rate changes now and then, up to
    ``most_per_s``; above ``MOST_AT_ONCE`` unanswered requests no more are sent."""
    loop = asyncio.get_running_loop()
    asked: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(question: Question) -> None:
            answering = send(
                session, url + question.path, question.body, question.headers, DEADLINE_S
            )
            try:
                tally.add(question, await asyncio.wait_for(answering, question.leaves_after_s))
            except asyncio.TimeoutError:
                tally.outcomes["left"] += 1

        rate_until_s, rate = loop.time(), most_per_s
        while not is_over():
            if loop.time() >= rate_until_s:
                rate_until_s += RATE_CHANGES_EVERY_S
                rate = rng.uniform(0.1, 1.0) * most_per_s
            await asyncio.sleep(rng.expovariate(rate))
            question = draw(model, rng)
            if len(asked) >= MOST_AT_ONCE:
                tally.outcomes["withheld"] += 1
                continue
            task = asyncio.ensure_future(one(question))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)
