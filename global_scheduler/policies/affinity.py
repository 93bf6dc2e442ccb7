"""One unit for each session or user, as long as it has room."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies import load_balanced
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from global_scheduler.policies.rendezvous import by_preference


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The first unit with room in the order of the session, else of the user.

    Requests that nobody owns, and those that find every unit full, go where the load is least.
    """
    owner = f"session {request.session_id}" if request.session_id else f"user {request.user}"
    with_room = [candidate for candidate in candidates if not candidate.is_full]
    if not with_room or not (request.session_id or request.user):
        choice = load_balanced.choose(request, with_room or candidates, turn, rng)
        return Choice(choice.unit, reason="all full" if not with_room else "no owner")
    return Choice(by_preference(owner, with_room)[0].unit, reason=owner.partition(" ")[0])
