"""Reads an ``EngineSnapshot`` off a live vLLM V1 scheduler (``vllm/v1/core/sched/scheduler.py``).

Works with vLLM 0.20 to 0.32: attributes that were renamed in between are looked for under each
name. It only reads; nothing of vLLM's state or statistics changes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any, cast

from predictor.vllm_plugin.prefix_hits import PrefixHits
from predictor.vllm_plugin.steps import StepTracker
from wire.snapshot import SNAPSHOT_VERSION, EngineLimits, EngineSnapshot, SequenceState, StepRecord

MAX_WAITING = 256
"""Waiting requests in a snapshot; those beyond are only counted."""


class SchedulerCapture:
    """Takes snapshots of one scheduler."""

    def __init__(
        self, scheduler: Any, engine_id: str, clock: Callable[[], float], now: Callable[[], float]
    ) -> None:
        """``clock`` is monotonic, ``now`` gives UNIX seconds."""
        self._scheduler = scheduler
        self._now = now
        self._engine_id = engine_id
        self._model = _served_name(scheduler.vllm_config.model_config)
        self._limits = read_limits(scheduler)
        manager = scheduler.kv_cache_manager
        self._num_free_blocks = manager.block_pool.get_num_free_blocks
        # One table, except for models that mix kinds of attention.
        self._block_table, *self._more_block_tables = [
            single.req_to_blocks for single in manager.coordinator.single_type_managers
        ]
        self._prefix_hits = PrefixHits(manager, clock)
        self._states: dict[str, SequenceState] = {}

    def refresh_prefix_hits(self) -> None:
        """Look waiting prompts up in the prefix cache, as far as the time budget goes."""
        self._prefix_hits.refresh(self._waiting())

    def take(self, steps: StepTracker) -> EngineSnapshot:
        """The state now. The sequences in it are reused: encode it before the next one."""
        scheduler = self._scheduler
        waiting = [self._waiting_state(request) for request in self._waiting()]
        running = [self._updated_state(request) for request in scheduler.running]
        if len(self._states) > 2 * (len(running) + len(waiting)):
            self._states = {state.request_id: state for state in running + waiting}
        return EngineSnapshot(
            version=SNAPSHOT_VERSION,
            engine_id=self._engine_id,
            model=self._model,
            step=steps.num_steps,
            time=self._now(),
            limits=self._limits,
            running=running,
            waiting=waiting,
            num_waiting_left_out=sum(map(len, _queues(scheduler))) - len(waiting),
            num_free_blocks=self._num_free_blocks(),
            num_preemptions=steps.num_preemptions,
            in_flight=steps.in_flight,
            recent_steps=cast("list[StepRecord]", list(steps.recent_steps)),
        )

    def _waiting(self) -> list[Any]:
        ordered = itertools.chain.from_iterable(map(_ordered, _queues(self._scheduler)))
        return list(itertools.islice(ordered, MAX_WAITING))

    def _updated_state(self, request: Any) -> SequenceState:
        """Updates the state made when the request was first seen: twice as fast as a new one."""
        request_id = request.request_id
        state = self._states.get(request_id)
        if state is None or state.status != "running":
            state = self._states[request_id] = _new_state(request)
        state.num_tokens = request.num_tokens
        state.num_computed_tokens = request.num_computed_tokens
        state.num_output_placeholders = request.num_output_placeholders
        state.num_preemptions = request.num_preemptions
        # get, because the tables are defaultdicts and must not grow from being read.
        state.num_blocks = len(self._block_table.get(request_id, ()))
        for table in self._more_block_tables:
            state.num_blocks += len(table.get(request_id, ()))
        return state

    def _waiting_state(self, request: Any) -> SequenceState:
        """A request that waits and holds no KV does not change, so its state is kept as it is."""
        state = self._states.get(request.request_id)
        if state is None or state.status != "waiting" or request.num_computed_tokens:
            state = self._updated_state(request)
            state.status = "preempted" if request.status.name == "PREEMPTED" else "waiting"
        state.num_cached_tokens = self._prefix_hits.of(request.request_id)
        return state


def _new_state(request: Any) -> SequenceState:
    return SequenceState(
        request_id=request.request_id,
        num_prompt_tokens=request.num_prompt_tokens,
        num_tokens=request.num_tokens,
        max_tokens=request.max_tokens,
        priority=request.priority,
        arrival_time=request.arrival_time,
        status="running",
    )


def read_limits(scheduler: Any) -> EngineLimits:
    """The configuration of a scheduler."""
    config = scheduler.scheduler_config
    slots = scheduler.max_num_running_reqs
    return EngineLimits(
        max_num_seqs=min(slots, getattr(scheduler, "max_num_active_reqs", slots)),
        max_num_batched_tokens=scheduler.max_num_scheduled_tokens,
        max_model_len=scheduler.max_model_len,
        block_size=scheduler.block_size,
        num_gpu_blocks=scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1,
        long_prefill_token_threshold=getattr(config, "long_prefill_token_threshold", 0) or 0,
        enable_chunked_prefill=bool(getattr(config, "enable_chunked_prefill", True)),
        enable_prefix_caching=bool(scheduler.kv_cache_manager.enable_caching),
        scheduling_policy="priority" if config.policy == "priority" else "fcfs",
        async_scheduling=bool(getattr(config, "async_scheduling", False)),
    )


def _served_name(model_config: Any) -> str:
    name = getattr(model_config, "served_model_name", None) or model_config.model
    return str(name if isinstance(name, str) else name[0])


def _queues(scheduler: Any) -> list[Any]:
    """The queues of waiting requests in the order in which the scheduler drains them."""
    first = getattr(scheduler, "kv_holding_waiting", None)  # 0.30 and later
    if first is None:
        first = getattr(scheduler, "skipped_waiting", ())
    return [first, scheduler.waiting]


def _ordered(queue: Any) -> Iterable[Any]:
    """The head of a queue in its order; a priority queue's own iterator sorts all of it."""
    heap = getattr(queue, "_heap", None)
    if heap is None:
        return cast("Iterable[Any]", queue)
    return heapq.nsmallest(
        MAX_WAITING, heap, key=lambda r: (r.priority, r.arrival_time, r.request_id)
    )
