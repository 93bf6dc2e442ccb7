"""How fast units have lately been, learnt from requests that ended. Pure."""

from __future__ import annotations

from global_scheduler.queueing.base import Rates

WEIGHT = 0.05
"""Of the newest request in the running means."""


class LearntRates:
    """Running means over all units; the defaults until something has ended."""

    def __init__(self) -> None:
        self.present = Rates()

    def learn(
        self, num_prompt_tokens: int, num_output_tokens: int, ttft_s: float, e2e_s: float
    ) -> None:
        """A streamed request ended well, ``ttft_s`` and ``e2e_s`` after it was sent to its unit."""
        before = self.present
        prefill_tokens_per_s = before.prefill_tokens_per_s
        if num_prompt_tokens and ttft_s > 0:
            new = num_prompt_tokens / ttft_s
            prefill_tokens_per_s += WEIGHT * (new - prefill_tokens_per_s)
        seconds_per_output_token = before.seconds_per_output_token
        if num_output_tokens > 1 and e2e_s > ttft_s:
            new = (e2e_s - ttft_s) / (num_output_tokens - 1)
            seconds_per_output_token += WEIGHT * (new - seconds_per_output_token)
        self.present = Rates(prefill_tokens_per_s, seconds_per_output_token)
