"""What the decision log shows of a choice: the reason in words, and what each unit predicted."""

from __future__ import annotations

from collections.abc import Sequence

from global_scheduler.admission import Admission
from global_scheduler.decisions import CandidateView, Decision
from global_scheduler.policies.base import Candidate, Choice
from global_scheduler.queueing.tickets import Ticket


def explain(
    decision: Decision,
    choice: Choice,
    candidates: Sequence[Candidate],
    admission: Admission,
    ticket: Ticket,
) -> None:
    """Put into the log's entry what the decision saw, and why it came out so."""
    decision.candidates = [view_of(candidate, decision.waited_ms) for candidate in candidates]
    decision.reason = reason_of(decision.policy, choice, candidates, admission, ticket)


def reason_of(
    policy: str,
    choice: Choice,
    candidates: Sequence[Candidate],
    admission: Admission,
    ticket: Ticket,
) -> str:
    """In words, for people who ask why."""
    num_units = f"{len(candidates)} unit{'s' if len(candidates) > 1 else ''} with room"
    parts = [f"{policy} of {num_units}{' in the other pool' if ticket.is_stolen else ''}"]
    if not admission.meets_goals:
        parts.append("none is predicted to meet the goals")
    elif admission.num_able:
        parts.append(f"{admission.num_able} of them predicted to meet the goals")
    if choice.reason:
        parts.append(choice.reason)
    if choice.fallback is not None:
        parts.append(f"predictions missing, {choice.fallback} in their place")
    if choice.is_exploration:
        parts.append("to check predictions of a unit that has got nothing for a while")
    return "; ".join(parts)


def view_of(candidate: Candidate, waited_ms: float) -> CandidateView:
    """As the log shows it: latencies from the request's arrival on."""
    prediction = candidate.prediction
    # Without a what-if (backend "none") the latency fields are zeros that mean nothing.
    simulated = prediction is not None and prediction.backend != "none"
    return CandidateView(
        unit=candidate.unit,
        predicted_ttft_ms=waited_ms + prediction.ttft_ms if prediction and simulated else None,
        predicted_e2e_ms=waited_ms + prediction.e2e_ms if prediction and simulated else None,
        state_source=prediction.state_source if prediction else None,
        state_age_ms=prediction.state_age_ms if prediction else None,
        num_outstanding=candidate.num_outstanding,
        num_cached_tokens=candidate.num_cached_tokens,
    )
