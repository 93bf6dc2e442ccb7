"""An engine's state by its gateway's account alone."""

from __future__ import annotations

import random

import pytest

from predictor.errors import InvalidQuestion, StateUnavailable
from predictor.overlay import build_population
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from predictor.state.ledger import LedgerStateSource, rebuild
from predictor.state.validate import check_snapshot
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from tests.predictor.engines import MODEL, NOW, limits
from wire.prediction import SentRequest
from wire.snapshot import EngineSnapshot, SequenceState

pytestmark = pytest.mark.anyio

STEP_TIME = RooflineStepTime(MODEL, find_gpu("A30"))
"""Steps of some decodes take about 20 ms, 512 prompt tokens about 50 ms."""


def sent(request_id: str, age_ms: float, prompt: int = 160, **others: object) -> SentRequest:
    """A request in flight."""
    return SentRequest(
        request_id=request_id,
        num_prompt_tokens=prompt,
        expected_output_tokens=100.0,
        sent_age_ms=age_ms,
        **others,  # type: ignore[arg-type]
    )


def stream(request_id: str, tokens: int, age_ms: float = 9000.0) -> SentRequest:
    """One whose tokens come back, the first of them half a second after it was sent."""
    return sent(
        request_id,
        age_ms,
        has_first_token=True,
        num_output_tokens=tokens,
        first_token_age_ms=age_ms - 500,
    )


async def read(*requests: SentRequest, **bounds: int) -> EngineSnapshot:
    """What the source makes of the list."""
    source = LedgerStateSource(limits(**bounds), "m", "unit-1", STEP_TIME, lambda: NOW)
    found = await source.read(requests)
    check_snapshot(found)
    await source.close()
    return found


def ids(sequences: list[SequenceState]) -> str:
    """Their ids, in order."""
    return " ".join(sequence.request_id for sequence in sequences)


async def test_streams_run_with_the_tokens_that_came_back() -> None:
    """The oldest first, and with the blocks that they need."""
    found = await read(stream("b", 7, 4000.0), stream("a", 33))
    assert ids(found.running) == "a b"
    assert [s.num_tokens for s in found.running] == [193, 167]
    assert [s.num_computed_tokens for s in found.running] == [192, 166]
    assert [s.num_blocks for s in found.running] == [12, 11]
    assert (found.num_free_blocks, found.time, found.waiting) == (1000 - 23, NOW, [])


async def test_an_empty_list_is_an_idle_engine() -> None:
    """The gateway says that nothing is there."""
    found = await read()
    assert (found.running, found.waiting, found.num_free_blocks) == ([], [], 1000)


async def test_without_a_list_there_is_no_account() -> None:
    """Unless there is no other source either."""
    source = LedgerStateSource(limits(), "m", "unit-1", STEP_TIME, lambda: NOW)
    with pytest.raises(StateUnavailable, match="does not say"):
        await source.read(None)
    only = LedgerStateSource(limits(), "m", "u", STEP_TIME, lambda: NOW, is_only_source=True)
    assert (await only.read(None)).running == []


async def test_an_impossible_list_is_refused() -> None:
    """With the field's name, for this source looks at it before anyone else."""
    with pytest.raises(InvalidQuestion, match=r"sent\[0\]\.num_prompt_tokens"):
        await read(sent("a", 1.0, prompt=0))


async def test_uncounted_streams_are_as_far_as_their_age_lets_them() -> None:
    """A step of all streams for each token; halfway where there is no age."""
    unknown = sent("c", 1000.0, has_first_token=True)
    found = await read(stream("a", 100), stream("b", 0, 2500.0), unknown)
    generated = [s.num_tokens - s.num_prompt_tokens for s in found.running]
    assert generated[0] == 100
    assert 60 < generated[1] < 140  # two seconds of steps of 15 to 30 ms
    assert generated[2] == 50


async def test_prompts_are_computed_one_after_another() -> None:
    """The first goes on where the last stream's prompt ended; the next ones have to wait."""
    prompts = [sent(f"p{i}", 400.0 - i, prompt=900) for i in range(4)]
    found = await read(stream("s", 5, 1000.0), *prompts)
    assert (ids(found.running), ids(found.waiting)) == ("s p0 p1 p2", "p3")
    computed = [s.num_computed_tokens for s in found.running[1:]]
    assert computed[:2] == [899, 899]  # done, by these step times, but nothing has come back
    assert 0 < computed[2] < 899


async def test_slots_and_blocks_bound_the_running() -> None:
    """The first request without room holds up all behind it."""
    few_slots = await read(stream("s", 5), sent("a", 80.0), sent("b", 70.0), max_num_seqs=2)
    assert (ids(few_slots.running), ids(few_slots.waiting)) == ("s a", "b")
    large, small = sent("large", 80.0, prompt=320), sent("small", 70.0, prompt=16)
    few_blocks = await read(stream("s", 5), large, small, num_gpu_blocks=25)
    assert (ids(few_blocks.running), ids(few_blocks.waiting)) == ("s", "large small")


async def test_answers_in_one_piece_decode_unseen() -> None:
    """Their gateway has no sign of them, so the step times have to do."""
    silent = sent("u", 3000.0, is_streamed=False, max_tokens=90)
    found = await read(silent, sent("v", 3000.0, is_streamed=False))
    short, long = found.running
    assert short.num_tokens == 160 + 89
    assert 60 < long.num_tokens - 160 < 200


async def test_more_streams_than_slots_show_that_there_are_more_slots() -> None:
    """A configuration may be behind the engine's."""
    found = await read(*(stream(f"s{i}", 5) for i in range(5)), max_num_seqs=2)
    assert (len(found.running), found.limits.max_num_seqs) == (5, 5)


async def test_an_overlay_recognises_every_request() -> None:
    """Nothing of the list is lost, and nothing counted twice, even if it is listed twice."""
    requests = [stream("a", 5), sent("b", 50.0), *(sent(f"w{i}", 0.0) for i in range(3))]
    requests += requests
    found = build_population(await read(*requests), requests, NOW)
    held = [s.request_id for s in (*found.running, *found.waiting)]
    assert sorted(held) == ["a", "b", "w0", "w1", "w2"]


class Engine:
    """A scheduler under random load, and what a gateway in front of it knows."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.scheduler = Scheduler(limits(max_num_seqs=16, num_gpu_blocks=400))
        self.clock_s = 0.0
        self._next_arrival_s = 0.0
        self._sent_at_s: dict[str, float] = {}
        self._first_at_s: dict[str, float] = {}

    def step(self) -> None:
        """Take in what has come and play one step."""
        while self._next_arrival_s <= self.clock_s:
            self._arrive()
        batch = self.scheduler.schedule()
        if not batch.chunks:
            self.clock_s = max(self.clock_s, self._next_arrival_s)
            return
        self.clock_s += STEP_TIME.step_s(batch.shape())
        for seq in self.scheduler.update(batch).sampled:
            self._first_at_s.setdefault(seq.request_id, self.clock_s)

    def _arrive(self) -> None:
        name = f"r{len(self._sent_at_s)}"
        output = self._rng.randrange(1, 200)
        prompt = self._rng.randrange(16, 600)
        self.scheduler.add(Sequence(name, prompt, 1000, output))
        self._sent_at_s[name] = self._next_arrival_s
        self._next_arrival_s += self._rng.expovariate(6.0)

    def sent(self) -> list[SentRequest]:
        """The gateway's account."""
        return [
            SentRequest(
                request_id=name,
                num_prompt_tokens=seq.num_prompt_tokens,
                expected_output_tokens=100.0,
                sent_age_ms=(self.clock_s - self._sent_at_s[name]) * 1e3,
                has_first_token=name in self._first_at_s,
                num_output_tokens=seq.num_output_tokens,
                first_token_age_ms=(self.clock_s - self._first_at_s[name]) * 1e3
                if name in self._first_at_s
                else None,
            )
            for name, seq in self.scheduler.sequences.items()
        ]


def test_an_engine_is_rebuilt_from_its_gateways_account() -> None:
    """Who runs is right for nearly all requests, at nearly all moments of a loaded engine."""
    engine = Engine(seed=1)
    num_right = num_seen = num_waiting = 0
    for _ in range(600):
        engine.step()
        running, waiting = rebuild(engine.sent(), engine.scheduler.limits, STEP_TIME)
        truth = {seq.request_id for seq in engine.scheduler.running}
        num_right += sum(s.request_id in truth for s in running)
        num_right += sum(s.request_id not in truth for s in waiting)
        num_seen += len(running) + len(waiting)
        num_waiting += len(engine.scheduler.waiting)
        assert len(running) + len(waiting) == len(engine.scheduler.sequences)
    assert num_waiting > 500
    assert num_right >= 0.98 * num_seen
