"""What an ended generation teaches: the decision log, metrics, and the gateway's own estimates."""

from __future__ import annotations

import logging

from global_scheduler.bodies import GenerationRequest
from global_scheduler.decisions import Decision
from global_scheduler.job import Job
from global_scheduler.lengths import Lengths
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.outcomes import Outcomes
from global_scheduler.prompt_tokens import PromptTokenCounter
from global_scheduler.queue_metrics import QueueMetrics
from global_scheduler.rates import LearntRates
from global_scheduler.relay import Relayed
from global_scheduler.request_log import LoggedRequest, RequestLog
from global_scheduler.usage import TokenCounts
from wire.prediction import MAX_TOKENS, EndedRequest

logger = logging.getLogger(__name__)


class Observations:
    """Puts predictions next to what happened."""

    def __init__(
        self,
        lengths: Lengths,
        tokens: PromptTokenCounter,
        outcomes: Outcomes,
        metrics: GatewayMetrics,
        queue_metrics: QueueMetrics,
        rates: LearntRates,
        request_log: RequestLog | None,
    ) -> None:
        self._lengths = lengths
        self._tokens = tokens
        self._outcomes = outcomes
        self._metrics = metrics
        self._queue_metrics = queue_metrics
        self._rates = rates
        self._request_log = request_log

    def note(
        self,
        request: GenerationRequest,
        job: Job,
        decision: Decision,
        relayed: Relayed,
        *,
        sent_s: float,
        ended_s: float,
    ) -> None:
        """Put down what happened; only answers with token counts teach anything.

        ``sent_s`` is when this unit was sent the request.
        """
        decision.status = relayed.status
        self._metrics.request_ended(decision.unit, relayed.status)
        if relayed.counts is None:
            return
        try:
            self._learn(request, job, decision, relayed, relayed.counts, sent_s, ended_s)
        except Exception:  # the client has its answer, whatever an engine's counts lead to
            logger.exception("request %s: its outcome cannot be put down", job.request_id)
            self._metrics.unrecorded("outcome")

    def _learn(
        self,
        request: GenerationRequest,
        job: Job,
        decision: Decision,
        relayed: Relayed,
        counts: TokenCounts,
        sent_s: float,
        ended_s: float,
    ) -> None:
        first_s = relayed.first_token_at_s
        ttft_ms = None if first_s is None else (first_s - job.arrived_s) * 1e3
        e2e_ms = (ended_s - job.arrived_s) * 1e3
        decision.observed_ttft_ms = ttft_ms
        decision.observed_e2e_ms = e2e_ms
        decision.observed_output_tokens = counts.num_output_tokens
        self._metrics.observed(decision.unit, ttft_ms, e2e_ms)
        self._compare(decision)
        num_tokens = counts.num_output_tokens
        tpot_ms = None
        if ttft_ms is not None and num_tokens > 1:
            tpot_ms = (e2e_ms - ttft_ms) / (num_tokens - 1)
        self._queue_metrics.ended(decision.request_class, job.slo, ttft_ms, tpot_ms)
        if first_s is not None:
            self._rates.learn(job.num_prompt_tokens, num_tokens, first_s - sent_s, ended_s - sent_s)
        if counts.num_prompt_tokens is not None:
            self._tokens.correct(decision.model, request, counts.num_prompt_tokens)
        if request.num_sequences > 1:
            return  # what-ifs and length estimates are about single sequences
        self._lengths.observe(job.length_question, job.length, counts.num_output_tokens)
        if self._request_log is not None and 1 <= counts.num_output_tokens <= MAX_TOKENS:
            self._request_log.add(_logged(request, job, decision, counts))
        if decision.predicted_ttft_ms is not None:
            ended = _ended(decision, relayed, counts, sent_s, ended_s)
            self._outcomes.add(decision.unit, ended)

    def _compare(self, decision: Decision) -> None:
        pairs = {
            "ttft": (decision.predicted_ttft_ms, decision.observed_ttft_ms),
            "e2e": (decision.predicted_e2e_ms, decision.observed_e2e_ms),
        }
        for quantity, (predicted_ms, observed_ms) in pairs.items():
            if predicted_ms is not None and observed_ms is not None:
                self._metrics.predicted(decision.unit, quantity, predicted_ms, observed_ms)


def _logged(
    request: GenerationRequest, job: Job, decision: Decision, counts: TokenCounts
) -> LoggedRequest:
    return LoggedRequest(
        request_id=job.request_id,
        time_s=decision.time,
        question=job.length_question,
        opening=request.said.opening,
        num_output_tokens=counts.num_output_tokens,
        is_exact=counts.num_prompt_tokens is not None,
    )


def _ended(
    decision: Decision, relayed: Relayed, counts: TokenCounts, sent_s: float, ended_s: float
) -> EndedRequest:
    """As the sidecar's prediction counts: from when the request joins the engine."""
    first_s = relayed.first_token_at_s
    # Events are not counted as tokens here: an engine may put several tokens into one.
    is_usage = counts.num_prompt_tokens is not None
    is_credible = 1 <= counts.num_output_tokens <= MAX_TOKENS
    return EndedRequest(
        request_id=decision.request_id,
        ttft_ms=None if first_s is None else (first_s - sent_s) * 1e3,
        e2e_ms=(ended_s - sent_s) * 1e3,
        num_output_tokens=counts.num_output_tokens if is_usage and is_credible else None,
    )
