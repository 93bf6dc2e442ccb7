"""The rules of vLLM V1's scheduler, one step at a time.

Mirrors ``vllm/v1/core/sched/scheduler.py`` and ``async_scheduler.py`` (0.32) for decoder-only text
models with full attention, without LoRA, speculative decoding, KV connectors and data-parallel
prefill balancing. There are no prefill and decode phases: each step gives tokens to sequences until
a budget is spent, so that their computed tokens catch up with their known ones.
"""

from __future__ import annotations

import bisect
from collections import deque

from predictor.simulator.batch import Batch, Chunk, StepResult
from predictor.simulator.blocks import KvCache
from predictor.simulator.sequence import Sequence
from wire.snapshot import EngineLimits


class Scheduler:
    """Decides which sequences compute how many tokens in each step.

    ``schedule`` and ``update`` alternate. With ``async_scheduling`` a second batch may be scheduled
    before the first is handed to ``update``; batches are updated in the order of their making.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self.limits = limits
        self.kv_cache = KvCache(
            limits.num_gpu_blocks, limits.block_size, limits.enable_prefix_caching
        )
        self.sequences: dict[str, Sequence] = {}
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._by_priority = limits.scheduling_policy == "priority"

    def add(self, seq: Sequence) -> None:
        """Queue a new sequence.

        Raises:
            ValueError: its id is in use, or it could never run.
        """
        if seq.request_id in self.sequences:
            raise ValueError(f"request id {seq.request_id!r} is in use")
        if not 0 < seq.num_prompt_tokens < self.limits.max_model_len:
            raise ValueError(
                f"request {seq.request_id!r}: num_prompt_tokens must be from 1 to "
                f"{self.limits.max_model_len - 1}, got {seq.num_prompt_tokens}"
            )
        self.sequences[seq.request_id] = seq
        self._enqueue(seq)

    def abort(self, request_id: str) -> Sequence | None:
        """Drop a sequence and free its blocks at once; None if it is not here (any more)."""
        seq = self.sequences.get(request_id)
        if seq is None:
            return None
        if seq.status == "running":
            self.running.remove(seq)
        else:
            self.waiting.remove(seq)
        seq.finish_reason = "abort"
        self._finish(seq)
        return seq

    def schedule(self) -> Batch:
        """The next batch; empty if nothing can run."""
        plan: dict[Sequence, int] = {}
        preempted: list[Sequence] = []
        threshold = self._long_prefill_threshold()
        budget = self._schedule_running(plan, preempted, threshold)
        if not preempted:
            self._schedule_waiting(plan, budget, threshold)
        return Batch([self._start(seq, count) for seq, count in plan.items()], preempted)

    def update(self, batch: Batch) -> StepResult:
        """Take in the results of a batch: new tokens, and sequences that end."""
        result = StepResult([], [])
        for chunk in batch.chunks:
            seq = chunk.seq
            seq.num_in_flight_tokens -= chunk.num_tokens
            is_stale = seq.num_stale_tokens > 0
            if is_stale:
                seq.num_stale_tokens -= chunk.num_tokens
            if chunk.samples and seq.status != "finished":
                self._take_token(seq, is_stale, result)
        return result

    def _long_prefill_threshold(self) -> int:
        """The cap on one sequence's chunk; it does not bind a sequence that is alone."""
        alone = len(self.running) + len(self.waiting) <= 1
        threshold = 0 if alone else self.limits.long_prefill_token_threshold
        return threshold or self.limits.max_model_len

    def _schedule_running(
        self, plan: dict[Sequence, int], preempted: list[Sequence], threshold: int
    ) -> int:
        """Give tokens to the running sequences in their order; returns what is left of the budget.

        A sequence that finds no block preempts the last one (by priority: the least urgent one),
        possibly itself.
        """
        budget = self.limits.max_num_batched_tokens
        index = 0
        while index < len(self.running) and budget > 0:
            seq = self.running[index]
            num_tokens = min(self._num_wanted_tokens(seq), threshold, budget)
            while num_tokens > 0 and not self.kv_cache.try_allocate(seq, num_tokens):
                victim = self._choose_victim()
                if self.running.index(victim) < index:
                    index -= 1
                self._preempt(victim)
                preempted.append(victim)
                budget += plan.pop(victim, 0)
                if victim is seq:
                    return budget
            if num_tokens > 0:
                plan[seq] = num_tokens
                budget -= num_tokens
            index += 1
        return budget

    def _num_wanted_tokens(self, seq: Sequence) -> int:
        """Known tokens that are not computed; none for one whose last token is being sampled."""
        placeholders = seq.num_output_placeholders
        last = seq.num_prompt_tokens + seq.max_tokens
        if placeholders > 0 and seq.num_computed_tokens + 2 - placeholders >= last:
            return 0
        room = self.limits.max_model_len - 1 - seq.num_computed_tokens
        return min(seq.num_tokens + placeholders - seq.num_computed_tokens, room)

    def _choose_victim(self) -> Sequence:
        if self._by_priority:
            return max(self.running, key=lambda seq: (seq.priority, seq.arrival_time))
        return self.running[-1]

    def _preempt(self, seq: Sequence) -> None:
        """Send a running sequence back to the front of the queue, to be computed anew."""
        self.running.remove(seq)
        self.kv_cache.free(seq)
        seq.status = "preempted"
        seq.num_computed_tokens = 0
        seq.num_output_placeholders = 0
        seq.num_stale_tokens = seq.num_in_flight_tokens
        seq.num_preemptions += 1
        self._enqueue(seq, at_front=True)

    def _schedule_waiting(self, plan: dict[Sequence, int], budget: int, threshold: int) -> None:
        """Admit from the front of the queue until one does not fit: nobody overtakes it.

        Sequences whose output from before a preemption is still in flight are passed over.
        """
        passed_over: list[Sequence] = []
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            seq = self.waiting[0]
            if seq.num_stale_tokens > 0:
                passed_over.append(self.waiting.popleft())
                continue
            num_tokens = self._try_admit(seq, budget, threshold)
            if num_tokens is None:
                break
            self.waiting.popleft()
            self.running.append(seq)
            seq.status = "running"
            plan[seq] = num_tokens
            budget -= num_tokens
        self.waiting.extendleft(reversed(passed_over))

    def _try_admit(self, seq: Sequence, budget: int, threshold: int) -> int | None:
        """Tokens of the first chunk after the prefix-cache hit, or None if it must wait."""
        computed_blocks = self.kv_cache.find_computed_blocks(seq)
        num_cached_tokens = len(computed_blocks) * self.limits.block_size
        num_tokens = min(seq.num_tokens - num_cached_tokens, threshold)
        if num_tokens > budget and not self.limits.enable_chunked_prefill:
            return None
        num_tokens = min(num_tokens, budget)
        if not self.kv_cache.try_admit(seq, computed_blocks, num_tokens):
            return None
        seq.num_cached_tokens = seq.num_computed_tokens = num_cached_tokens
        return num_tokens

    def _start(self, seq: Sequence, num_tokens: int) -> Chunk:
        """Count the tokens as computed, so that the next batch can be made before this one ends."""
        context = seq.num_computed_tokens
        seq.num_computed_tokens += num_tokens
        seq.num_in_flight_tokens += num_tokens
        samples = seq.num_computed_tokens >= seq.num_tokens + seq.num_output_placeholders
        if samples and self.limits.async_scheduling:
            seq.num_output_placeholders += 1
        return Chunk(seq, num_tokens, context, samples)

    def _take_token(self, seq: Sequence, is_stale: bool, result: StepResult) -> None:
        result.sampled.append(seq)
        if self.limits.async_scheduling and not is_stale:
            seq.num_output_placeholders -= 1
        has_ended = seq.append_token(self.limits.max_model_len)
        if self.limits.async_scheduling and seq.status == "running":
            known = seq.num_computed_tokens - seq.num_output_placeholders
            self.kv_cache.cache_full_blocks(seq, known)
        if has_ended:
            result.finished.append(seq)
            if seq.status == "running":
                self.running.remove(seq)
            else:
                self.waiting.remove(seq)
            self._finish(seq)

    def _finish(self, seq: Sequence) -> None:
        seq.status = "finished"
        self.kv_cache.free(seq)
        del self.sequences[seq.request_id]

    def _enqueue(self, seq: Sequence, at_front: bool = False) -> None:
        if self._by_priority:
            bisect.insort(self.waiting, seq, key=lambda waiting: waiting.order)
        elif at_front:
            self.waiting.appendleft(seq)
        else:
            self.waiting.append(seq)
