"""From a parsed request to a unit: ask the sidecars, let the policy choose, count it at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from global_scheduler.decisions import SHOWN_LEVELS, CandidateView, Decision, DecisionLog
from global_scheduler.errors import NotFound, NoUnitAvailable
from global_scheduler.ledger import InFlight, Ledger
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.policies import Policy
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from global_scheduler.predictions import Answer, PredictionClient
from global_scheduler.units import Unit, UnitRegistry
from wire.length import LengthEstimate, LengthQuestion
from wire.prediction import PredictRequest, Slo

TOLD_LEVELS = ("0.1", "0.25", "0.5", "0.7", "0.8", "0.9", "0.95")
"""Of the quantiles of a length, those that sidecars are told: with more they predict no better, and
every question carries those of all requests in flight."""


@dataclass(frozen=True, slots=True)
class Job:
    """A generation request, ready to be routed."""

    request_id: str
    model: str
    num_prompt_tokens: int
    length_question: LengthQuestion
    length: LengthEstimate
    max_tokens: int | None
    priority: int
    is_streamed: bool
    slo: Slo | None = None

    def question(self) -> PredictRequest:
        """The same, as sidecars are asked."""
        quantiles = self.told_quantiles() or None
        return PredictRequest(
            request_id=self.request_id,
            num_prompt_tokens=self.num_prompt_tokens,
            expected_output_tokens=None if quantiles else self.length.mean_tokens,
            quantiles=quantiles,
            max_tokens=self.max_tokens,
            priority=self.priority,
            slo=self.slo,
        )

    def told_quantiles(self) -> dict[str, float]:
        """Empty when only a mean is known."""
        known = self.length.quantiles
        told = {level: known[level] for level in TOLD_LEVELS if level in known}
        return told if len(told) == len(TOLD_LEVELS) else known


@dataclass(slots=True)
class Routing:
    """How requests are routed now; the admin API changes it while the gateway runs."""

    policy: Policy
    num_query_predictors: int
    """Candidates drawn at random for each decision (power of k); 0 takes all."""


class Dispatcher:
    """Chooses units."""

    def __init__(
        self,
        units: UnitRegistry,
        ledger: Ledger,
        predictions: PredictionClient,
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

    async def dispatch(self, job: Job, tried: Collection[str]) -> tuple[Unit, Decision]:
        """Choose a unit not yet ``tried`` and enter the job in the ledger.

        Raises:
            NotFound: no unit serves the model.
            NoUnitAvailable: no eligible unit is left.
        """
        started_s = self._clock()
        policy = self.routing.policy
        units = self._drawn(self._eligible(job.model, tried))
        answers: dict[str, Answer] = {}
        if policy.needs != "nothing":
            simulate = policy.needs == "simulation"
            answers = await self._predictions.ask(units, job.question(), simulate=simulate)
            # A unit may have failed or been drained while its sidecar was asked.
            units = [u for u in units if u.healthy and not u.draining] or self._eligible(
                job.model, tried
            )
        # No await from here on: the next decision must see this one.
        candidates = [self._candidate(unit, answers.get(unit.name)) for unit in units]
        request = RoutedRequest(job.request_id, job.num_prompt_tokens, job.length.mean_tokens)
        choice = policy.choose(request, candidates, self._turn, self._rng)
        self._turn += 1
        decision = self._record(job, policy.name, choice, candidates, started_s)
        chosen = next(unit for unit in units if unit.name == choice.unit)
        self._enter(job, chosen, candidates)
        return chosen, decision

    def any_unit(self, model: str | None) -> Unit:
        """The least loaded unit, for requests that are not generations.

        Raises:
            NotFound, NoUnitAvailable: as for ``dispatch``.
        """
        return min(self._eligible(model, ()), key=lambda u: (len(u.outstanding), u.name))

    def _eligible(self, model: str | None, tried: Collection[str]) -> list[Unit]:
        units = [unit for unit in self._units.eligible(model) if unit.name not in tried]
        if units:
            return units
        if model is not None and not tried and model not in self._units.models():
            if any(unit.healthy for unit in self._units.all()):
                raise NotFound(
                    f"The model `{model}` does not exist.", param="model", code="model_not_found"
                )
            raise NoUnitAvailable("no unit is healthy", code="no_healthy_unit")
        raise NoUnitAvailable(f"no unit can take a request for {model!r} now", code="no_unit")

    def _drawn(self, units: list[Unit]) -> list[Unit]:
        k = self.routing.num_query_predictors
        if not 0 < k < len(units):
            return units
        return sorted(self._rng.sample(units, k), key=lambda unit: unit.name)

    def _candidate(self, unit: Unit, answer: Answer | None) -> Candidate:
        prediction = None
        if answer is not None:
            prediction = self._ledger.correct(answer.prediction, unit, answer.asked_at_s)
        return Candidate(
            unit.name,
            prediction,
            len(unit.outstanding),
            round(unit.num_outstanding_tokens),
            idle_s=self._clock() - unit.last_sent_s,
        )

    def _enter(self, job: Job, unit: Unit, candidates: list[Candidate]) -> None:
        entry = InFlight(
            job.request_id,
            unit.name,
            job.num_prompt_tokens,
            job.length.mean_tokens,
            job.priority,
            self._clock(),
            next(c.prediction for c in candidates if c.unit == unit.name),
            quantiles=job.told_quantiles(),
            max_tokens=job.max_tokens,
            slo=job.slo,
            is_streamed=job.is_streamed,
        )
        self._ledger.sent(unit, entry)

    def _record(
        self,
        job: Job,
        policy: str,
        choice: Choice,
        candidates: list[Candidate],
        started_s: float,
    ) -> Decision:
        duration_s, quantiles = self._clock() - started_s, job.length.quantiles
        self._metrics.decided(policy, choice.fallback, duration_s)
        views = [_view(candidate) for candidate in candidates]
        chosen = next(view for view in views if view.unit == choice.unit)
        decision = Decision(
            request_id=job.request_id,
            time=self._wall_clock(),
            model=job.model,
            policy=policy,
            fallback=choice.fallback,
            is_exploration=choice.is_exploration,
            unit=choice.unit,
            candidates=views,
            num_prompt_tokens=job.num_prompt_tokens,
            expected_output_tokens=job.length.mean_tokens,
            output_token_quantiles={k: v for k in SHOWN_LEVELS if (v := quantiles.get(k))},
            length_source=job.length.source,
            decision_ms=duration_s * 1e3,
            predicted_ttft_ms=chosen.predicted_ttft_ms,
            predicted_e2e_ms=chosen.predicted_e2e_ms,
        )
        self._log.add(decision)
        return decision


def _view(candidate: Candidate) -> CandidateView:
    prediction = candidate.prediction
    # Without a what-if (backend "none") the latency fields are zeros that mean nothing.
    simulated = prediction is not None and prediction.backend != "none"
    return CandidateView(
        unit=candidate.unit,
        predicted_ttft_ms=prediction.ttft_ms if prediction and simulated else None,
        predicted_e2e_ms=prediction.e2e_ms if prediction and simulated else None,
        state_source=prediction.state_source if prediction else None,
        state_age_ms=prediction.state_age_ms if prediction else None,
        num_outstanding=candidate.num_outstanding,
    )
