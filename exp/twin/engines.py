"""The engines of a fleet in simulated time, step by step by the rules of vLLM V1's scheduler.

An engine has at most one batch in flight: async scheduling is not played. What happens to it during
a step, arrivals and aborts, takes effect when the step ends, as in vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from exp.twin.errors import EngineDown
from exp.twin.kernel import layout
from exp.twin.kernel.layout import END, FIRST_TOKEN, NONE, Fleet
from exp.twin.kernel.memory import (
    empty,
    make_fleet,
    with_more_slots,
    with_room_for_hashes,
)
from exp.twin.kernel.step import enter, play, remove
from predictor.simulator.kernel.compiled import machine_code
from predictor.step_time.table import StepTable
from wire.snapshot import EngineLimits

__all__ = [
    "END", "FIRST_TOKEN", "EngineEvent", "EngineRequest", "EngineSpec", "Engines", "MovedSequence",
]  # fmt: skip

NUM_FACTORS = 1 << 14
"""Factors of noise drawn for each unit; after the last one the first is used again."""


class EngineSpec(NamedTuple):
    """One unit's engine as it really is."""

    limits: EngineLimits
    table: StepTable
    """True mean step times."""
    noise: float
    """Standard deviation of a step's duration, as a share of it."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as it reaches an engine."""

    index: int
    """Its number, from 0, which no other request in the fleet has."""
    num_prompt_tokens: int
    output_length: int
    """Output tokens up to and including the stop token; nobody but the engine knows it."""
    max_tokens: int
    priority: int
    block_hashes: NDArray[np.int64]
    """Of the full blocks of prompt and answer, at least 0 each; may be shorter or empty: blocks
    without one match nobody else's."""


class MovedSequence(NamedTuple):
    """A request that has left an engine with what was computed for it."""

    request: EngineRequest
    num_output_tokens: int
    num_computed_tokens: int
    """Tokens whose KV travels with it."""
    num_cached_tokens: int
    num_preemptions: int


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """What a client of an engine would notice."""

    kind: int
    """FIRST_TOKEN or END. Who ends with the first token has both events."""
    unit: int
    index: int
    time_s: float
    num_output_tokens: int
    num_cached_tokens: int
    """Prompt tokens found in the prefix cache when it was first admitted."""
    num_preemptions: int
    ended_by_length: bool


class Engines:
    """All engines of a fleet. Deterministic: the same calls and seed give the same events."""

    def __init__(self, specs: Sequence[EngineSpec], *, seed: int) -> None:
        """Time starts at 0 and all engines are idle.

        Raises:
            ValueError: an engine that the twin cannot play.
        """
        for unit, spec in enumerate(specs):
            _check(unit, spec)
        factors = [_draw_factors(spec.noise, seed, unit) for unit, spec in enumerate(specs)]
        self.specs = tuple(specs)
        self.fleet: Fleet = make_fleet(
            [spec.limits for spec in specs], [spec.table for spec in specs], np.array(factors)
        )
        """The arrays, for those who look into engines; replaced when they grow."""
        self.now_s = 0.0
        self._play = machine_code(play, self.fleet, self.now_s, self.now_s)
        self._num_hashes = 0
        self._num_arrived = 0
        self._held: list[dict[int, tuple[int, EngineRequest]]] = [{} for _ in specs]
        """By unit and index: slots and requests, in the order of arrival."""

    def add(self, unit: int, request: EngineRequest) -> None:
        """A request reaches an engine now, which sees it at its next step; an idle one at once.

        Raises:
            EngineDown: the unit has failed.
            ValueError: the index is in use, or the request could never run here.
        """
        self._enter(unit, MovedSequence(request, 0, 0, NONE, 0), at_front=False)

    def put(self, unit: int, moved: MovedSequence) -> None:
        """A request arrives with its KV: it waits at the queue's front for blocks and a seat, and
        goes on without computing anything anew.

        Raises:
            EngineDown, ValueError: as ``add``.
        """
        self._enter(unit, moved, at_front=True)

    def abort(self, unit: int, index: int) -> None:
        """Drop a request at the end of the step under way; no event of it comes any more.

        One that is not there (any more) is ignored.
        """
        slot, _ = self._held[unit].pop(index, (NONE, None))
        if slot == NONE:
            return
        fleet = self.fleet
        if fleet.seqs[slot, layout.STATE] == layout.RUNNING and not self.is_idle(unit):
            fleet.seqs[slot, layout.STATE] = layout.ABORTED
            fleet.engines[unit, layout.NUM_ABORTED] += 1
        else:
            remove(fleet, unit, slot)

    def take(self, unit: int, index: int) -> MovedSequence:
        """Let a request leave the engine at once, with what has been computed up to now.

        Raises:
            KeyError: it is not there.
        """
        slot, request = self._held[unit].pop(index)
        seq = self.fleet.seqs[slot].tolist()
        remove(self.fleet, unit, slot)
        return MovedSequence(
            request=request,
            num_output_tokens=seq[layout.TOKENS] - seq[layout.PROMPT],
            num_computed_tokens=max(seq[layout.COMPUTED], seq[layout.KEPT]),
            num_cached_tokens=seq[layout.CACHED_TOKENS],
            num_preemptions=seq[layout.PREEMPTIONS],
        )

    def fail(self, unit: int) -> list[int]:
        """The engine dies; the indices of the requests that it held, as they arrived."""
        fleet, engine = self.fleet, self.fleet.engines[unit]
        while engine[layout.NUM_RUNNING]:
            remove(fleet, unit, int(fleet.running[unit, 0]))
        while engine[layout.NUM_WAITING]:
            remove(fleet, unit, int(engine[layout.FIRST_WAITING]))
        empty(fleet, unit)
        engine[layout.NUM_ABORTED] = 0
        engine[layout.IS_DOWN] = 1
        lost = list(self._held[unit])
        self._held[unit].clear()
        return lost

    def recover(self, unit: int) -> None:
        """The engine is back, empty and with a cold cache."""
        self.fleet.engines[unit, layout.IS_DOWN] = 0

    def running(self, unit: int) -> list[tuple[int, int]]:
        """Index and computed tokens of each running request, in order of admission."""
        slots = self.fleet.running[unit, : self.fleet.engines[unit, layout.NUM_RUNNING]]
        seqs = self.fleet.seqs[slots]
        return list(
            zip(seqs[:, layout.INDEX].tolist(), seqs[:, layout.COMPUTED].tolist(), strict=True)
        )

    def is_idle(self, unit: int) -> bool:
        """Whether it has no batch in flight."""
        return bool(self.fleet.clocks[unit, layout.ENDS_S] == np.inf)

    def advance(self, until_s: float) -> list[EngineEvent]:
        """Play up to the first step end with events, which are returned, or to ``until_s``.

        ``now_s`` is then that moment. With an infinite ``until_s`` nothing happens when all are
        idle.
        """
        num_events, now_s = self._play(self.fleet, self.now_s, until_s)
        self.now_s = now_s
        if num_events == 0:
            return []
        unit = int(self.fleet.counters[layout.EVENT_UNIT])
        events = [
            EngineEvent(kind, unit, index, now_s, num_output, num_cached, num_preempted, bool(cut))
            for kind, index, num_output, num_cached, num_preempted, cut in (
                self.fleet.events[:num_events].tolist()
            )
        ]
        for event in events:
            if event.kind == END:
                del self._held[unit][event.index]
        return events

    def _enter(self, unit: int, moved: MovedSequence, *, at_front: bool) -> None:
        request = moved.request
        self._check_can_enter(unit, request)
        if self.fleet.counters[layout.FREE_SLOT] == NONE:
            self.fleet = with_more_slots(self.fleet)
        first_hash = self._store_hashes(request.block_hashes)
        fleet, slot = self.fleet, int(self.fleet.counters[layout.FREE_SLOT])
        fleet.counters[layout.FREE_SLOT] = fleet.seqs[slot, layout.NEXT]
        fleet.seqs[slot] = (
            *(request.index, request.num_prompt_tokens),
            *(request.num_prompt_tokens + moved.num_output_tokens, 0),
            *(request.output_length, request.max_tokens, request.priority),
            *(first_hash, len(request.block_hashes)),
            *(moved.num_computed_tokens, moved.num_cached_tokens, moved.num_preemptions),
            *(self._num_arrived, fleet.engines[unit, layout.STEP] + 1),
            *(0, layout.WAITING, NONE, 0, 0, NONE, NONE, NONE),
        )
        self._num_arrived += 1
        self._held[unit][request.index] = slot, request
        enter(fleet, unit, slot, at_front)

    def _check_can_enter(self, unit: int, request: EngineRequest) -> None:
        limits, index = self.specs[unit].limits, request.index
        if self.fleet.engines[unit, layout.IS_DOWN]:
            raise EngineDown(f"engine {unit} is down")
        if index in self._held[unit]:
            raise ValueError(f"engine {unit}: request {index} is there already")
        if not 0 < request.num_prompt_tokens < limits.max_model_len:
            raise ValueError(
                f"request {index}: num_prompt_tokens must be from 1 to {limits.max_model_len - 1}, "
                f"got {request.num_prompt_tokens}"
            )
        longest = request.num_prompt_tokens + min(request.output_length, request.max_tokens)
        room = limits.num_gpu_blocks * limits.block_size
        # The last token needs no KV.
        if min(longest, limits.max_model_len) - 1 > room:
            raise ValueError(f"request {index}: its {longest} tokens exceed the KV cache's {room}")
        if len(request.block_hashes) and request.block_hashes.min() < 0:
            raise ValueError(f"request {index}: negative block hash {request.block_hashes.min()}")

    def _store_hashes(self, block_hashes: NDArray[np.int64]) -> int:
        """Where they are from now on; makes room by forgetting those of sequences that are gone."""
        first, count = self._num_hashes, len(block_hashes)
        if first + count > len(self.fleet.hashes):
            slots = [slot for held in self._held for slot, _ in held.values()]
            self.fleet, first = with_room_for_hashes(self.fleet, slots, count)
        self.fleet.hashes[first : first + count] = block_hashes
        self._num_hashes = first + count
        return first


def _draw_factors(noise: float, seed: int, unit: int) -> NDArray[np.float64]:
    """Log-normal, of mean 1."""
    variance = np.log1p(noise**2)
    normal = np.random.default_rng([seed, unit]).standard_normal(NUM_FACTORS)
    factors: NDArray[np.float64] = np.exp(np.sqrt(variance) * normal - variance / 2)
    return factors


def _check(unit: int, spec: EngineSpec) -> None:
    limits = spec.limits
    if limits.async_scheduling:
        raise ValueError(f"engine {unit}: async_scheduling is not played, must be false (got true)")
    if not limits.enable_chunked_prefill and limits.max_num_batched_tokens < limits.max_model_len:
        raise ValueError(
            f"engine {unit}: without chunked prefill max_num_batched_tokens must be at least "
            f"{limits.max_model_len}, as max_model_len is (got {limits.max_num_batched_tokens})"
        )
    if spec.noise < 0:
        raise ValueError(f"engine {unit}: noise must be at least 0, got {spec.noise}")
