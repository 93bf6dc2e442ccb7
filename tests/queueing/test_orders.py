"""In which order requests leave."""

from __future__ import annotations

import pytest

from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.base import QueueView, Rates
from global_scheduler.queueing.waiting import Waiting
from tests.queueing.requests import holding, request, room, view


def leaving(order: str, requests: list[Waiting], now_s: float = 10.0, load: float = 0.5) -> str:
    """Names of the requests in the order in which they get the only place of a unit."""
    queues, names = holding(order), []
    for one in requests:
        queues.put(one, "short")
    while len(queues):
        (ticket,) = queues.grants(view(now_s, load), [room("a")], lambda _: False)
        queues.placed(ticket.waiting.request_id)
        names.append(ticket.waiting.request_id)
    return " ".join(names)


def test_first_in_first_out() -> None:
    """By arrival, whatever else is known."""
    requests = [request("a", importance=-1), request("b", importance=5), request("c")]
    assert leaving("fifo", requests) == "a b c"


def test_the_most_important_first() -> None:
    """Equals by arrival."""
    requests = [request("a"), request("b", importance=2), request("c", importance=2)]
    assert leaving("priority", [*requests, request("d", importance=-1)]) == "b c a d"


def test_the_shortest_answer_first() -> None:
    """Prompts only break ties."""
    requests = [
        request("a", expected_output_tokens=300.0, num_prompt_tokens=1),
        request("b", expected_output_tokens=30.0, num_prompt_tokens=900),
        request("c", expected_output_tokens=30.0, num_prompt_tokens=20),
    ]
    assert leaving("sjf", requests) == "c b a"


def test_the_least_work_first() -> None:
    """At the present speed of prefills and decodes: the same two change places with it."""
    prompt = request("prompt", num_prompt_tokens=4_000, expected_output_tokens=10.0)
    answer = request("answer", num_prompt_tokens=10, expected_output_tokens=40.0)
    rank = ORDERS["srtf"].rank
    slow_prefill = QueueView(0.0, rates=Rates(1_000.0, 0.03))
    slow_decode = QueueView(0.0, rates=Rates(10_000.0, 0.2))
    assert rank(answer, slow_prefill) < rank(prompt, slow_prefill)
    assert rank(prompt, slow_decode) < rank(answer, slow_decode)


def test_the_earliest_deadline_first() -> None:
    """A deadline is arrival and goal; requests without one come last, by arrival."""
    requests = [
        request("a", 0.0),
        request("b", 0.0, ttft_goal_s=20.0),
        request("c", 5.0, ttft_goal_s=10.0),
        request("d", 6.0),
    ]
    assert leaving("edf", requests) == "c b a d"


def test_users_take_turns() -> None:
    """A user with many requests waits for the others after each."""
    requests = [request(f"a{number}", user="a") for number in range(3)]
    requests += [request(f"b{number}", user="b") for number in range(2)]
    assert leaving("round_robin", requests) == "a0 b0 a1 b1 a2"


def test_a_user_stays_served_between_requests() -> None:
    """Whoever was served while alone does not overtake those who have waited since."""
    queues = holding("round_robin")
    queues.put(request("a0", user="a"), "short")
    queues.put(request("b0", user="b"), "short")
    (ticket,) = queues.grants(view(), [room("u")], lambda _: False)
    queues.placed(ticket.waiting.request_id)
    queues.put(request("a1", user="a"), "short")
    (ticket,) = queues.grants(view(), [room("u")], lambda _: False)
    assert ticket.waiting.request_id == "b0"


def test_the_most_urgent_first() -> None:
    """Slack by work; late ones after those that can be in time, those without a goal last."""
    requests = [
        request("none", 0.0),
        request("late", 0.0, ttft_goal_s=5.0),
        request("easy", 0.0, ttft_goal_s=100.0),
        request("urgent", 0.0, ttft_goal_s=11.0),
        request("long", 0.0, ttft_goal_s=100.0, expected_output_tokens=2_000.0),
    ]
    assert leaving("slo_aware", requests) == "urgent long easy late none"


def test_the_cheapest_first_unless_a_goal_is_at_risk() -> None:
    """A dear request goes first in the moment in which its goal comes near, not before."""
    requests = [
        request("dear", 0.0, expected_output_tokens=900.0, ttft_goal_s=10.3),
        request("cheap", 0.0, expected_output_tokens=10.0),
    ]
    assert leaving("cost_optimized", requests, now_s=5.0) == "cheap dear"
    assert leaving("cost_optimized", requests, now_s=10.0) == "dear cheap"


@pytest.mark.parametrize(
    ("load", "first"), [(0.29, "cheap"), (0.3, "important"), (0.8, "important"), (0.81, "urgent")]
)
def test_adapting_to_load(load: float, first: str) -> None:
    """Cost below 30 % of the places in use, importance to 80 %, goals above."""
    requests = [
        request("cheap", expected_output_tokens=1.0),
        request("important", importance=3),
        request("urgent", ttft_goal_s=12.0),
    ]
    assert leaving("adaptive", requests, now_s=10.0, load=load).split()[0] == first
