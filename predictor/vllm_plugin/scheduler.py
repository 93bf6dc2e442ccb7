"""The scheduler for ``--scheduler-cls predictor.vllm_plugin.scheduler.AstrolabeScheduler``.

vLLM's own scheduler, which makes every decision as before, with its state published after each
call. Needs vLLM 0.20 or later.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from predictor.vllm_plugin.observer import Guard, SchedulerObserver


class SnapshotMixin:
    """Publishes the state of the scheduler class that follows it in the bases.

    Arguments are passed on as they come, because vLLM's signatures differ between versions.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._astrolabe = Guard(lambda: SchedulerObserver(self))

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's ``schedule``."""
        entered_at_s = time.perf_counter()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        self._astrolabe.scheduled(output, entered_at_s)
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """vLLM's ``update_from_output``."""
        results_at_s = time.perf_counter()
        outputs = super().update_from_output(  # type: ignore[misc]
            scheduler_output, *args, **kwargs
        )
        self._astrolabe.updated(scheduler_output, results_at_s)
        return outputs

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's ``shutdown``."""
        self._astrolabe.close()
        return super().shutdown(*args, **kwargs)  # type: ignore[misc]


class AstrolabeSyncScheduler(SnapshotMixin, Scheduler):  # type: ignore[misc]
    """For engines that wait for a batch before they schedule the next."""


class AstrolabeAsyncScheduler(SnapshotMixin, AsyncScheduler):  # type: ignore[misc]
    """For engines that schedule a batch while the one before it runs."""


def AstrolabeScheduler(vllm_config: Any, *args: Any, **kwargs: Any) -> SnapshotMixin:
    """The class that suits the engine: the wrong one would cost async scheduling's gain."""
    is_async = getattr(vllm_config.scheduler_config, "async_scheduling", False)
    chosen = AstrolabeAsyncScheduler if is_async else AstrolabeSyncScheduler
    return chosen(vllm_config, *args, **kwargs)
