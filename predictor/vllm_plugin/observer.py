"""Publishes a scheduler's state around its two calls, and never gets in the engine's way."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from predictor.vllm_plugin.capture import SchedulerCapture
from predictor.vllm_plugin.publisher import SnapshotPublisher
from predictor.vllm_plugin.settings import read_settings
from predictor.vllm_plugin.steps import StepTracker

# Under vLLM's name, because vLLM sets up logging for that name alone.
logger = logging.getLogger("vllm.astrolabe")


class SchedulerObserver:
    """What one scheduler publishes. Raises whatever goes wrong; ``Guard`` holds that back."""

    def __init__(self, scheduler: Any) -> None:
        parallel = scheduler.vllm_config.parallel_config
        index = getattr(parallel, "data_parallel_index", parallel.data_parallel_rank)
        settings = read_settings(os.environ, sys.argv, os.getpid(), index)
        self._scheduler = scheduler
        self._steps = StepTracker(time.perf_counter, time.time)
        self._capture = SchedulerCapture(
            scheduler, settings.engine_id, time.perf_counter, time.time
        )
        self._encode = msgspec.msgpack.Encoder().encode
        self._publisher = SnapshotPublisher(settings.engine_id, settings.listen)
        self._publish()  # an idle engine is visible before its first request
        logger.info(
            "Astrolabe: snapshots of this engine are at shm:%s%s",
            settings.engine_id,
            f" and {settings.listen}" if settings.listen else "",
        )

    def scheduled(self, output: Any, entered_at_s: float) -> None:
        """``schedule()``, entered at that time of ``perf_counter``, has returned ``output``."""
        self._steps.scheduled(self._scheduler, output, entered_at_s)
        self._capture.refresh_prefix_hits()
        self._publish()

    def updated(self, output: Any, results_at_s: float) -> None:
        """``update_from_output()`` has processed results that came at that ``perf_counter``."""
        has_more_work = self._scheduler.get_num_unfinished_requests() > 0
        self._steps.results_back(output, results_at_s, has_more_work)
        self._publish()

    def _publish(self) -> None:
        self._publisher.publish(self._encode(self._capture.take(self._steps)))

    def retract(self) -> None:
        """Take back the last snapshot."""
        self._publisher.publish(b"")

    def close(self) -> None:
        """Stop publishing."""
        self._publisher.close()


class Guard:
    """Calls an observer and holds back its failures: the engine must run on whatever happens.

    The first failure is logged. After each, readers are told that there is no snapshot, and the
    next call tries again.
    """

    def __init__(self, make_observer: Callable[[], SchedulerObserver]) -> None:
        self._has_failed = False
        self._observer: SchedulerObserver | None = None
        self._attempt(self._make, make_observer)

    def scheduled(self, output: Any, entered_at_s: float) -> None:
        """See ``SchedulerObserver.scheduled``."""
        observer = self._observer
        if observer and not self._attempt(observer.scheduled, output, entered_at_s):
            self._attempt(observer.retract)

    def updated(self, output: Any, results_at_s: float) -> None:
        """See ``SchedulerObserver.updated``."""
        observer = self._observer
        if observer and not self._attempt(observer.updated, output, results_at_s):
            self._attempt(observer.retract)

    def close(self) -> None:
        """See ``SchedulerObserver.close``."""
        if self._observer:
            self._attempt(self._observer.close)

    def _make(self, make_observer: Callable[[], SchedulerObserver]) -> None:
        self._observer = make_observer()

    def _attempt(self, action: Callable[..., None], *args: Any) -> bool:
        """Whether the action went through. Broad on purpose: it stands between us and vLLM."""
        try:
            action(*args)
        except Exception:
            if not self._has_failed:
                logger.exception(
                    "Astrolabe: cannot publish this engine's state; vLLM itself runs on"
                )
            self._has_failed = True
            return False
        return True
