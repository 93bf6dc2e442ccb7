"""What holding requests costs the gateway: passing an empty queue, leaving a full one.

Pure code, in process: the cost of a decision alone, without asking sidecars. Medians of several
rounds, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.base import QueueView
from global_scheduler.queueing.holding import Holding
from global_scheduler.queueing.tickets import Room
from global_scheduler.queueing.waiting import Waiting

LIMIT = 8
MODEL = "model"
PASSES = 200


def main() -> int:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    result = {
        "pass_us_by_units": {n: _median(rounds, partial(passing_us, n)) for n in (1, 4, 12, 48)},
        "departure_us_at_1000_waiting": {
            order: _median(rounds, partial(departure_us, order, 1_000)) for order in ORDERS
        },
        "vain_wake_us_at_1000_waiting": _median(rounds, partial(vain_wake_us, 1_000)),
    }
    print(json.dumps(result))
    return 0


def _median(rounds: int, measure: Callable[[], float]) -> float:
    return round(statistics.median(measure() for _ in range(rounds)), 1)


def passing_us(num_units: int) -> float:
    """A request that comes, finds room and goes, the queue being empty."""
    queues = _holding("fifo")
    rooms = _rooms(num_units, active=0)
    view = QueueView(0.0, 0.5)
    started_s = time.perf_counter()
    for number in range(PASSES):
        queues.put(Waiting(f"r{number}", MODEL, 0.0, 100, 200.0), "short")
        (ticket,) = queues.grants(view, rooms, _never)
        queues.placed(ticket.waiting.request_id)
    return _each_us(started_s)


def departure_us(order: str, num_waiting: int) -> float:
    """One place comes free, and the next request of so many is found for it."""
    queues = _filled(order, num_waiting + PASSES)
    rooms = _rooms(4, active=LIMIT)
    rooms[0] = replace(rooms[0], active=LIMIT - 1)
    view = QueueView(30.0, 0.9)
    started_s = time.perf_counter()
    for _ in range(PASSES):
        (ticket,) = queues.grants(view, rooms, _never)
        queues.placed(ticket.waiting.request_id)
    return _each_us(started_s)


def vain_wake_us(num_waiting: int) -> float:
    """Something has changed, but no unit has room."""
    queues = _filled("fifo", num_waiting)
    rooms = _rooms(4, active=LIMIT)
    view = QueueView(30.0, 1.0)
    started_s = time.perf_counter()
    for _ in range(PASSES):
        queues.grants(view, rooms, _never)
    return _each_us(started_s)


def _each_us(started_s: float) -> float:
    return (time.perf_counter() - started_s) / PASSES * 1e6


def _never(room: Room) -> bool:
    return False


def _holding(order: str) -> Holding:
    return Holding(ORDERS[order], max_requests=10_000, max_age_s=60.0, max_overtakes=100)


def _filled(order: str, num_waiting: int) -> Holding:
    queues, rng = _holding(order), random.Random(0)
    for number in range(num_waiting):
        queues.put(
            Waiting(
                f"r{number}",
                MODEL,
                arrived_s=number * 0.01,
                num_prompt_tokens=rng.randrange(10, 3_000),
                expected_output_tokens=rng.uniform(1.0, 500.0),
                importance=rng.randrange(-1, 3),
                user=f"user{rng.randrange(50)}",
                ttft_goal_s=rng.choice([None, 1.0, 10.0]),
            ),
            "short",
        )
    return queues


def _rooms(num_units: int, active: int) -> list[Room]:
    return [Room(f"u{n}", (MODEL,), None, LIMIT, active) for n in range(num_units)]


if __name__ == "__main__":
    sys.exit(main())
