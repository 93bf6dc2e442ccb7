"""Shortest job first: the fewest expected output tokens (scheduling chapter, 7.5.2)."""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank
from global_scheduler.queueing.waiting import Waiting


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """Shortest job first: the fewest expected output tokens (scheduling chapter, 7.5.2)."""
    return (waiting.expected_output_tokens, waiting.num_prompt_tokens)
