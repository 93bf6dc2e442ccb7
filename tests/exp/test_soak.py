"""What the soak asks, judges and measures; the soak itself is tests/fleet/test_soak.py."""

from __future__ import annotations

import random

import anyio.to_thread
import pytest

from exp.gateway_admin import Admin
from exp.soaking.admin import switch
from exp.soaking.clients import Tally, try_problem
from exp.soaking.memory import try_growth
from exp.soaking.questions import Question, draw
from exp.workloads.streams import Answered, Outcome
from tests.global_scheduler.fleet import ScriptedEngine, fleet

SOUND = Question(path="/v1/completions", body=b"{}", num_output_tokens=5)
NONSENSE = Question(path="/v1/completions", body=b"{", is_nonsense=True)


def answered(outcome: Outcome, status: int | None, **changes: object) -> Answered:
    """An answer as the client saw it."""
    fields = {"num_output_tokens": 5, "is_openai_error": True, "error": "why"} | changes
    return Answered(sent_s=0.0, outcome=outcome, status=status, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("question", "answer", "problem"),
    [
        (SOUND, answered("ok", 200), None),
        (SOUND, answered("ok", 200, num_output_tokens=4), "4 tokens came instead of 5"),
        (SOUND, answered("lost", None), "no answer: why"),
        (SOUND, answered("failed", 502), None),
        (SOUND, answered("failed", 200), None),
        (SOUND, answered("failed", 500, is_openai_error=False), "unclear: why"),
        (SOUND, answered("failed", 400), "a sound request was refused: why"),
        (SOUND, answered("rejected", 429, headers={"retry-after": "2"}), None),
        (SOUND, answered("rejected", 429), "429 without Retry-After: why"),
        (NONSENSE, answered("failed", 400), None),
        (NONSENSE, answered("ok", 200), "nonsense was answered"),
        (NONSENSE, answered("failed", 400, is_openai_error=False), "unclear: why"),
    ],
)
def test_an_answer_is_whole_or_a_clear_error(
    question: Question, answer: Answered, problem: str | None
) -> None:
    """All else is a problem, and is counted as one."""
    assert try_problem(question, answer) == problem
    tally = Tally()
    tally.add(question, answer)
    assert tally.num_problems == len(tally.problems) == (problem is not None)


def test_questions_are_of_all_kinds() -> None:
    """And the same for a seed."""
    first, again = ([draw("m", random.Random(3)) for _ in range(2)] for _ in range(2))
    assert first == again
    rng = random.Random(1)
    drawn = [draw("m", rng) for _ in range(500)]
    assert 10 < sum(one.is_nonsense for one in drawn) < 60
    assert 10 < sum(one.leaves_after_s is not None for one in drawn) < 80
    assert len({one.path for one in drawn}) == 3
    assert any(b'"stream": true' in one.body for one in drawn)
    assert any(len(one.body) > 10_000 for one in drawn)


@pytest.mark.parametrize(("growth", "noise"), [(0.0, 1.0), (40.0, 0.5), (-10.0, 0.1)])
def test_growth_is_the_slope_of_the_second_half(growth: float, noise: float) -> None:
    """Whatever the first half did; the interval holds the truth."""
    rng = random.Random(2)
    times = [float(second) for second in range(1_800)]
    sizes = [
        (150 + 300 * min(second, 600) / 600 + growth * second / 3600 + rng.gauss(0, noise))
        for second in times
    ]
    found = try_growth(times, sizes)
    assert found is not None
    assert found.low_mb_per_h < growth < found.high_mb_per_h
    assert found.high_mb_per_h - found.low_mb_per_h < 4 * noise
    assert try_growth(times[:50], sizes[:50]) is None


@pytest.mark.anyio
async def test_every_switch_is_one_that_the_gateway_knows() -> None:
    """Whatever is drawn, the admin API takes it."""
    async with fleet(ScriptedEngine(), ScriptedEngine()) as running:
        admin = Admin(str(running.client.base_url).rstrip("/"))
        orders = set()
        for seed in range(30):
            await anyio.to_thread.run_sync(switch, admin, random.Random(seed))
            shown = await anyio.to_thread.run_sync(admin.get, "/admin/pools")
            orders.add((shown["pools"], shown["queue_order"]))
        assert len(orders) > 10
        assert (await running.complete()).status_code == 200
