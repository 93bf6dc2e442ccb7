"""Questions share a population for as long as nothing has changed."""

from __future__ import annotations

import msgspec
import pytest

from predictor.errors import InvalidQuestion
from predictor.populations import MAX_REUSE_S, Populations
from predictor.state.select import State
from tests.predictor.engines import NOW, running, snapshot, waiting
from wire.prediction import SentRequest


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """UNIX seconds."""
        return self.now


def state() -> State:
    """An engine with two sequences."""
    return State(snapshot(running("r"), waiting("w")), "plugin", NOW)


def sent(**fields: object) -> list[SentRequest]:
    """What a gateway tells of the running one."""
    request = SentRequest(request_id="r", num_prompt_tokens=100, expected_output_tokens=50.0)
    return [msgspec.structs.replace(request, **fields)]


def test_the_same_snapshot_and_list_give_the_same_sequences() -> None:
    """Ages differ in each question and do not count; the moment does."""
    clock, found = Clock(), state()
    populations = Populations(256.0, clock)
    first = populations.find(found, sent(sent_age_ms=5.0))
    clock.now += MAX_REUSE_S / 2
    second = populations.find(found, sent(sent_age_ms=15.0))
    assert second.population.running is first.population.running
    assert second.population.waiting is first.population.waiting
    assert second.population.now == clock.now
    assert second.num_unprocessed_tokens == first.num_unprocessed_tokens


@pytest.mark.parametrize("changed", [{"expected_output_tokens": 70.0}, {"has_first_token": True}])
def test_a_changed_list_is_laid_over_anew(changed: dict[str, object]) -> None:
    """So is one with a request more."""
    populations, found = Populations(256.0, Clock()), state()
    first = populations.find(found, sent())
    assert populations.find(found, sent(**changed)).population.running is not (
        first.population.running
    )
    more = sent() + sent(request_id="fresh")
    assert len(populations.find(found, more).population.waiting) == 2


def test_a_new_snapshot_or_time_ends_the_sharing() -> None:
    """Whatever is derived from ages is never older than the limit."""
    clock = Clock()
    populations, found = Populations(256.0, clock), state()
    first = populations.find(found, sent()).population
    assert populations.find(state(), sent()).population.running is not first.running
    second = populations.find(found, sent()).population
    clock.now += MAX_REUSE_S
    assert populations.find(found, sent()).population.running is not second.running


def test_a_list_that_cannot_be_is_refused_and_not_remembered() -> None:
    """However often it comes."""
    populations, found = Populations(256.0, Clock()), state()
    for _ in range(2):
        with pytest.raises(InvalidQuestion, match=r"sent\[0\]\.num_prompt_tokens.*got -1"):
            populations.find(found, sent(num_prompt_tokens=-1))
