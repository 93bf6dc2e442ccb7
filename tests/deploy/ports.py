"""Free ports for what a test starts."""

from __future__ import annotations

import contextlib
import random
import socket


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def free_offset(base_ports: list[int], rng: random.Random) -> int:
    """A number to add to all of these ports so that nobody listens on any of them."""
    while True:
        offset = rng.randrange(2_000, 22_000, 10)  # below the ports given to clients
        try:
            with contextlib.ExitStack() as held:
                for port in base_ports:
                    held.enter_context(socket.socket()).bind(("", port + offset))
        except OSError:
            continue
        return offset
