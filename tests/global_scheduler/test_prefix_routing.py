"""The gateway knows what units hold, asks their sidecars with it and tells them of it."""

from __future__ import annotations

import pytest

from global_scheduler.ledger import InFlight, Ledger
from global_scheduler.units import Unit
from tests.global_scheduler.fleet import Fleet, ScriptedEngine, fleet
from wire.prediction import PredictBatchRequest

pytestmark = pytest.mark.anyio

PROMPT = "Once there was a harbour with many rules. " * 40


def by_uncached(batch: PredictBatchRequest) -> float:
    """An engine that takes a millisecond for each prompt token that waits."""
    question = batch.requests[0]
    queue = sum(sent.num_prompt_tokens for sent in batch.sent or [])
    return 1.0 + queue + question.num_prompt_tokens - question.num_cached_tokens


async def units_of(running: Fleet) -> list[str]:
    """Where requests went, oldest first."""
    return [decision["unit"] for decision in await running.decisions()]


async def test_a_request_goes_where_its_prefix_is() -> None:
    """Each sidecar is asked with what its own unit holds, so the what-if finds the faster one."""
    engines = [ScriptedEngine(predict=by_uncached) for _ in range(3)]
    async with fleet(*engines) as running:
        await running.complete(prompt=PROMPT + "First")
        (home,) = await units_of(running)
        for question in ("Second", "Third", "Fourth"):
            await running.complete(prompt=PROMPT + question)
        assert await units_of(running) == [home] * 4
        await running.complete(prompt="Something else. " * 100)
        last = (await running.decisions())[-1]
    asked = {f"u{i}": [q.requests[0] for q in e.questions] for i, e in enumerate(engines)}
    cached = {unit: [q.num_cached_tokens for q in questions] for unit, questions in asked.items()}
    num_tokens = asked[home][1].num_prompt_tokens
    assert cached.pop(home) == [0, *[num_tokens - num_tokens % 16] * 3, 0]
    assert all(set(counts) == {0} for counts in cached.values())
    assert all(view["num_cached_tokens"] == 0 for view in last["candidates"])


@pytest.mark.parametrize(
    ("labels", "num_cached_tokens"),
    [
        ('num_gpu_blocks="20",block_size="16"', 320),
        ('block_size="8",num_gpu_blocks="20",enable_prefix_caching="True"', 160),
        ('num_gpu_blocks="20",block_size="16",enable_prefix_caching="False"', 0),
        ('num_gpu_blocks="None",block_size="16"', 400),
    ],
)
async def test_units_hold_as_much_as_their_engines_say(labels: str, num_cached_tokens: int) -> None:
    """Its own page tells the size of an engine's cache; without it more is thought to be held."""
    page = f'# HELP x y\nvllm:cache_config_info{{engine="0",{labels}}} 1.0\n'
    engine = ScriptedEngine(predict=by_uncached, metrics=page.encode())
    async with fleet(engine) as running:
        for _ in range(2):
            await running.complete(prompt=list(range(401)))
    assert engine.questions[-1].requests[0].num_cached_tokens == num_cached_tokens


async def test_what_a_restarted_unit_held_is_forgotten() -> None:
    """It is asked as if it had never seen the prompt."""
    engine = ScriptedEngine(predict=by_uncached)
    async with fleet(engine) as running:
        await running.complete(prompt=PROMPT)
        await running.complete(prompt=PROMPT)
        running.app.units.get("u0").refused("restarted")
        while not running.app.units.get("u0").healthy:
            await running.client.get("/health")
        await running.complete(prompt=PROMPT)
    cached = [batch.requests[0].num_cached_tokens > 0 for batch in engine.questions]
    assert cached == [False, True, False]


@pytest.mark.parametrize("policy", ["affinity", "locality", "token_load"])
async def test_conversations_stay_on_their_units(policy: str) -> None:
    """By session, by beginning and by cache; several conversations use several units."""
    engines = [ScriptedEngine() for _ in range(3)]
    async with fleet(*engines, policy=policy) as running:
        for turn in range(3):
            for talk in range(8):
                await running.complete(
                    prompt=f"Talk {talk}. " * 40 + "More. " * turn,
                    headers={"x-session-id": f"talk-{talk}"},
                )
        units = await units_of(running)
    assert units[:8] == units[8:16] == units[16:]
    assert set(units) == {"u0", "u1", "u2"}
    assert [len(engine.questions) for engine in engines] == [0, 0, 0]


def test_the_ledger_counts_tokens_to_compute_until_the_first_one_comes_back() -> None:
    """Those that a cache holds are not counted, and an end without a token settles the account."""
    now = [10.0]
    ledger, unit = Ledger(lambda: now[0]), Unit("a", "http://a")
    ledger.sent(unit, InFlight("r", "a", 1000, 50.0, 0, 10.0, None, num_cached_tokens=400))
    ledger.sent(unit, InFlight("s", "a", 300, 50.0, 0, 10.0, None))
    assert unit.num_uncached_tokens == 900
    now[0] = 10.5
    ledger.streamed(unit, "r", 1)
    assert (unit.num_uncached_tokens, unit.peak_prefill_tokens_per_s) == (300, 1200.0)
    ledger.streamed(unit, "r", 2)
    ledger.ended(unit, "r")
    ledger.ended(unit, "s")
    assert unit.num_uncached_tokens == 0


def test_a_units_best_prefill_rate_is_lived_down() -> None:
    """Short prompts say nothing of it; slower ones do little by little."""
    now = [0.0]
    ledger, unit = Ledger(lambda: now[0]), Unit("a", "http://a")

    def prefill(num_tokens: int, seconds: float) -> float | None:
        ledger.sent(unit, InFlight("r", "a", num_tokens, 50.0, 0, now[0], None))
        now[0] += seconds
        ledger.streamed(unit, "r", 1)
        ledger.ended(unit, "r")
        return unit.peak_prefill_tokens_per_s

    assert prefill(100, 0.001) is None
    assert prefill(1000, 1.0) == pytest.approx(1000.0)
    assert prefill(1000, 4.0) == pytest.approx(990.0)
    assert prefill(3000, 1.5) == pytest.approx(2000.0)


def test_sidecars_are_told_what_was_cached() -> None:
    """A request in flight need not compute what its unit held."""
    now = [10.0]
    ledger, unit = Ledger(lambda: now[0]), Unit("a", "http://a")
    ledger.sent(unit, InFlight("r", "a", 1000, 50.0, 0, 10.0, None, num_cached_tokens=400))
    assert [sent.num_cached_tokens for sent in ledger.sent_list(unit)] == [400]
