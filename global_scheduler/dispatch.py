"""From a ticket to a unit: ask the sidecars, let goals and policy choose, count it at once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from global_scheduler.admission import ANY_UNIT, Admission, AdmissionRules, Forecast, admit
from global_scheduler.decisions import SHOWN_LEVELS, Decision, DecisionLog
from global_scheduler.errors import NotFound, NoUnitAvailable, TooManyRequests
from global_scheduler.explanations import explain, view_of
from global_scheduler.job import Job
from global_scheduler.ledger import InFlight, Ledger
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.policies import Policy
from global_scheduler.policies.base import (
    FIRST_PREFILL_TOKENS_PER_S,
    Candidate,
    Choice,
    RoutedRequest,
)
from global_scheduler.predictions import Answer, Predictions
from global_scheduler.queueing.load import facts_of
from global_scheduler.queueing.tickets import NO_LIMIT, Ticket
from global_scheduler.queueing.waiting import Waiting
from global_scheduler.slo import GoalDefaults
from global_scheduler.units import Unit, UnitRegistry

logger = logging.getLogger(__name__)

POSTPONED_S = 0.1
"""A request whose goals no unit can meet now looks again after so long."""


@dataclass(slots=True)
class Routing:
    """How requests are routed now; the admin API changes it while the gateway runs."""

    policy: Policy
    num_query_predictors: int
    """Candidates drawn at random for each decision (power of k); 0 takes all."""
    goals: AdmissionRules
    """What to do about requests with latency goals."""
    goal_defaults: GoalDefaults
    """Goals of requests that name none."""
    hold_above_s: float
    """A request that would queue in its engine for longer than this goes on waiting here."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """No unit was chosen: the request goes on waiting, at least until then."""

    not_before_s: float
    is_crowded: bool = False
    """It would only queue in an engine, and so would those behind it."""


class Dispatcher:
    """Chooses units."""

    def __init__(
        self,
        units: UnitRegistry,
        ledger: Ledger,
        predictions: Predictions,
        routing: Routing,
        log: DecisionLog,
        metrics: GatewayMetrics,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._units = units
        self._ledger = ledger
        self._predictions = predictions
        self.routing = routing
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng
        self._turn = 0

    async def dispatch(
        self, job: Job, ticket: Ticket, limit_of: Callable[[Unit], int]
    ) -> tuple[Unit, Decision] | Postponed:
        """Choose one of the ticket's units and enter the job in the ledger.

        Raises:
            TooManyRequests: no unit could meet the job's goals, and it may be refused for that.
        """
        started_s = self._clock()
        policy = self.routing.policy
        units = self._with_room(job, ticket, limit_of)
        answers: dict[str, Answer] = {}
        if policy.needs != "nothing" or job.slo is not None:
            units = self._drawn(units)
            simulate = policy.needs in ("simulation", "costs") or job.slo is not None
            answers = await self._predictions.ask(
                units,
                job.question(),
                simulate=simulate,
                num_cached_tokens={unit.name: _num_cached_tokens(unit, job) for unit in units},
                cost_to_others=policy.needs == "costs",
            )
            for unit in units:
                if (answer := answers.get(unit.name)) is not None:
                    unit.engine = facts_of(answer.prediction, answer.asked_at_s)
            # Units may have filled up, failed or been drained while sidecars were asked.
            able = self._with_room(job, ticket, limit_of)
            units = [unit for unit in units if unit in able] or able
        # No await from here on: the next decision must see this one.
        now_s = self._clock()
        if not units:
            return Postponed(now_s)
        candidates = [
            self._candidate(unit, job, limit_of(unit), answers.get(unit.name)) for unit in units
        ]
        admission = self._admit(ticket.waiting, candidates, started_s)
        if admission.verdict == "wait":
            return Postponed(now_s + POSTPONED_S)
        allowed = [c for c in candidates if c.unit in admission.units] or candidates
        choice = policy.choose(_routed(job), allowed, self._turn, self._rng)
        self._turn += 1
        if self._would_queue(choice, allowed):
            return Postponed(now_s, is_crowded=True)
        decision = self._record(job, ticket, policy.name, choice, candidates, admission, started_s)
        chosen = next(unit for unit in units if unit.name == choice.unit)
        self._enter(job, chosen, candidates)
        return chosen, decision

    def check_model(self, model: str) -> None:
        """See that a request for the model may wait.

        Raises:
            NotFound: no unit serves it.
            NoUnitAvailable: no unit is there that does.
        """
        self._eligible(model)

    def any_unit(self, model: str | None) -> Unit:
        """The least loaded unit, for requests that are not generations.

        Raises:
            NotFound, NoUnitAvailable: as for ``check_model``.
        """
        return min(self._eligible(model), key=lambda u: (len(u.outstanding), u.name))

    def _eligible(self, model: str | None) -> list[Unit]:
        units = self._units.eligible(model)
        if units:
            return units
        if model is not None and model not in self._units.models():
            if any(unit.healthy for unit in self._units.all()):
                raise NotFound(
                    f"The model `{model}` does not exist.", param="model", code="model_not_found"
                )
            raise NoUnitAvailable("no unit is healthy", code="no_healthy_unit")
        raise NoUnitAvailable(f"no unit can take a request for {model!r} now", code="no_unit")

    def _with_room(self, job: Job, ticket: Ticket, limit_of: Callable[[Unit], int]) -> list[Unit]:
        return [
            unit
            for unit in self._units.eligible(job.model)
            if unit.name in ticket.units and len(unit.outstanding) < limit_of(unit)
        ]

    def _admit(self, waiting: Waiting, candidates: list[Candidate], now_s: float) -> Admission:
        if not waiting.has_goals:
            return ANY_UNIT
        forecasts = [
            Forecast(c.unit, c.prediction.ttft_ms / 1e3, c.prediction.tpot_ms / 1e3)
            for c in candidates
            if c.prediction is not None and c.prediction.backend != "none"
        ]
        admission = admit(
            waiting,
            forecasts,
            self.routing.goals,
            now_s,
            num_unknown=len(candidates) - len(forecasts),
        )
        if admission.verdict == "shed":
            soonest_s = min(forecast.ttft_s for forecast in forecasts)
            raise TooManyRequests(
                f"no unit is predicted to meet the latency goals (first token in {soonest_s:.2f} s"
                f" at best), and priority {waiting.importance} may be refused for that",
                "slo",
                soonest_s,
            )
        return admission

    def _would_queue(self, choice: Choice, candidates: list[Candidate]) -> bool:
        """Whether the engine chosen would only let the request wait.

        While any unit is without requests nothing is held back: forecasts that lie may slow a
        fleet down, not stop it.
        """
        chosen = next(c for c in candidates if c.unit == choice.unit)
        if chosen.prediction is None or not all(c.num_outstanding for c in candidates):
            return False
        return chosen.prediction.queue_ms / 1e3 > self.routing.hold_above_s

    def _drawn(self, units: list[Unit]) -> list[Unit]:
        k = self.routing.num_query_predictors
        if not 0 < k < len(units):
            return units
        return sorted(self._rng.sample(units, k), key=lambda unit: unit.name)

    def _candidate(self, unit: Unit, job: Job, limit: int, answer: Answer | None) -> Candidate:
        prediction = None
        if answer is not None:
            prediction = self._ledger.correct(answer.prediction, unit, answer.asked_at_s)
        return Candidate(
            unit.name,
            prediction,
            len(unit.outstanding),
            round(unit.num_outstanding_tokens),
            idle_s=self._clock() - unit.last_sent_s,
            concurrency_limit=limit if limit < NO_LIMIT else None,
            num_cached_tokens=_num_cached_tokens(unit, job),
            num_uncached_tokens_in_flight=unit.num_uncached_tokens,
            prefill_tokens_per_s=unit.peak_prefill_tokens_per_s or FIRST_PREFILL_TOKENS_PER_S,
        )

    def _enter(self, job: Job, unit: Unit, candidates: list[Candidate]) -> None:
        candidate = next(c for c in candidates if c.unit == unit.name)
        entry = InFlight(
            job.request_id,
            unit.name,
            job.num_prompt_tokens,
            job.length.mean_tokens,
            job.priority,
            self._clock(),
            candidate.prediction,
            quantiles=job.told_quantiles(),
            max_tokens=job.max_tokens,
            slo=job.slo,
            is_streamed=job.is_streamed,
            num_cached_tokens=candidate.num_cached_tokens,
        )
        self._ledger.sent(unit, entry)
        unit.prefixes.sent(job.prefix)

    def _record(
        self,
        job: Job,
        ticket: Ticket,
        policy: str,
        choice: Choice,
        candidates: list[Candidate],
        admission: Admission,
        started_s: float,
    ) -> Decision:
        duration_s, quantiles = self._clock() - started_s, job.length.quantiles
        waited_ms = (started_s - job.arrived_s) * 1e3
        chosen = next(view_of(c, waited_ms) for c in candidates if c.unit == choice.unit)
        decision = Decision(
            request_id=job.request_id,
            time=self._wall_clock(),
            model=job.model,
            policy=policy,
            fallback=choice.fallback,
            is_exploration=choice.is_exploration,
            unit=choice.unit,
            waited_ms=waited_ms,
            request_class=ticket.request_class,
            is_stolen=ticket.is_stolen,
            num_prompt_tokens=job.num_prompt_tokens,
            expected_output_tokens=job.length.mean_tokens,
            output_token_quantiles={k: v for k in SHOWN_LEVELS if (v := quantiles.get(k))},
            length_source=job.length.source,
            decision_ms=duration_s * 1e3,
            predicted_ttft_ms=chosen.predicted_ttft_ms,
            predicted_e2e_ms=chosen.predicted_e2e_ms,
        )
        # What people may ask for later is put together when the engine has the request.
        explained = partial(explain, decision, choice, candidates, admission, ticket)
        asyncio.get_running_loop().call_soon(self._put_down, decision, explained)
        return decision

    def _put_down(self, decision: Decision, explained: Callable[[], None]) -> None:
        try:
            explained()
            self._log.add(decision)
        except Exception:  # the request is on its way, whatever cannot be told of it
            logger.exception("request %s: its decision cannot be put down", decision.request_id)
            self._metrics.unrecorded("decision")
        self._metrics.decided(decision.policy, decision.fallback, decision.decision_ms / 1e3)


def _num_cached_tokens(unit: Unit, job: Job) -> int:
    return unit.prefixes.num_cached_tokens(job.prefix, job.num_prompt_tokens)


def _routed(job: Job) -> RoutedRequest:
    return RoutedRequest(
        job.request_id,
        job.num_prompt_tokens,
        job.length.mean_tokens,
        user=job.user,
        session_id=job.session_id,
        opening=job.prefix.opening,
    )
