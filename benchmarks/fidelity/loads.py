"""Sends the loads through a fleet's gateway and keeps what is needed to predict them again."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import anyio
import msgspec
import openai

from benchmarks.fidelity.recording import Run, SentRecord
from exp.fleet.plan import Plan
from exp.open_loop import SentPrompt, poisson_arrivals_s, sample_prompts, send_open_loop
from predictor.errors import StateUnavailable
from predictor.state.plugin import PluginStateSource
from predictor.step_time.records import StepFeed
from wire.snapshot import EngineSnapshot, StepRecord

POLL_S = 0.2
"""A snapshot carries the last 64 steps, and none takes less than some milliseconds."""
WARM_UP = "warm-up"
"""The load from which the units are learnt; its own predictions do not count."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that come at a rate, or all at once."""

    name: str
    num_requests: int
    rate_per_s: float | None
    """Mean of Poisson arrivals at the whole fleet; None sends all at once."""

    def arrivals_s(self, rng: random.Random) -> list[float]:
        """Seconds from the load's start."""
        if self.rate_per_s is None:
            return [0.0] * self.num_requests
        return poisson_arrivals_s(self.num_requests, self.rate_per_s, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What serves, and what it is sent."""

    engine: str
    plan: Plan
    model_config: str
    gpu: str
    max_tokens: int
    loads: tuple[Load, ...]


class Watch:
    """Reads the units' published states: at every request's sending, and for all their steps."""

    def __init__(self, engine_ids: Mapping[str, str]) -> None:
        """``engine_ids`` by unit."""
        self._sources = {
            unit: PluginStateSource(f"shm:{engine_id}") for unit, engine_id in engine_ids.items()
        }
        self._feeds = {unit: StepFeed() for unit in engine_ids}
        self.steps: dict[str, list[StepRecord]] = {unit: [] for unit in engine_ids}
        self.moments: dict[str, tuple[float, dict[str, EngineSnapshot]]] = {}
        """By request id: when it was sent and the units' states then."""

    async def keep(self, request_id: str) -> None:
        """Keep the states of all units. Raises StateUnavailable."""
        snapshots = {unit: await self._read(unit) for unit in self._sources}
        self.moments[request_id] = (time.time(), snapshots)

    async def follow(self) -> None:
        """Read all steps until cancelled."""
        while True:
            for unit in self._sources:
                with suppress(StateUnavailable):  # the engine wrote at every attempt to read
                    await self._read(unit)
            await asyncio.sleep(POLL_S)

    async def _read(self, unit: str) -> EngineSnapshot:
        snapshot = await self._sources[unit].read()
        self.steps[unit] += self._feeds[unit].fresh(snapshot.recent_steps)
        return msgspec.structs.replace(snapshot, recent_steps=[])


def engine_ids(plan: Plan) -> dict[str, str]:
    """The names under which the units of a plan publish their states."""
    return {
        part.name: part.command[part.command.index("--engine-id") + 1]
        for part in plan.parts
        if part.role == "sidecar"
    }


async def record(fleet: Fleet, seed: int, on_end: Callable[[SentPrompt], None]) -> Run:
    """Send the loads one after the other, each when all of the one before has ended.

    Raises:
        openai.OpenAIError: the gateway does not answer.
        StateUnavailable: a unit does not publish its state.
    """
    watch = Watch(engine_ids(fleet.plan))
    load_average = os.getloadavg()[0]
    async with anyio.create_task_group() as watching:
        watching.start_soon(watch.follow)
        requests, num_failed = await _send(fleet, random.Random(seed), watch, on_end)
        await asyncio.sleep(2 * POLL_S)  # for the last steps
        watching.cancel_scope.cancel()
    return Run(
        engine=fleet.engine,
        model_config=fleet.model_config,
        gpu=fleet.gpu,
        load_average=load_average,
        num_failed=num_failed,
        requests=sorted(requests, key=lambda request: request.sent_at),
        steps=watch.steps,
    )


async def _send(
    fleet: Fleet, rng: random.Random, watch: Watch, on_end: Callable[[SentPrompt], None]
) -> tuple[list[SentRecord], int]:
    """What was answered, and how many were not."""
    prompts = sample_prompts(sum(load.num_requests for load in fleet.loads), rng)
    requests: list[SentRecord] = []
    num_failed = 0
    gateway = f"{fleet.plan.parts[-1].url}/v1"
    async with openai.AsyncOpenAI(base_url=gateway, api_key="none", max_retries=0) as client:
        model = (await client.models.list()).data[0].id
        for load in fleet.loads:
            batch, prompts = prompts[: load.num_requests], prompts[load.num_requests :]
            async for item in send_open_loop(
                client,
                model,
                batch,
                load.arrivals_s(rng),
                max_tokens=fleet.max_tokens,
                run_id=uuid.uuid4().hex[:8],
                before_sending=watch.keep,
            ):
                on_end(item)
                if item.error is None and item.num_prompt_tokens > 0:
                    requests.append(_to_record(item, load, fleet.max_tokens, watch))
                else:
                    num_failed += 1
    return requests, num_failed


def _to_record(item: SentPrompt, load: Load, max_tokens: int, watch: Watch) -> SentRecord:
    sent_at, snapshots = watch.moments[item.request_id]
    return SentRecord(
        request_id=item.request_id,
        load=load.name,
        unit=item.unit,
        sent_at=sent_at,
        num_prompt_tokens=item.num_prompt_tokens,
        num_output_tokens=item.num_output_tokens,
        max_tokens=max_tokens,
        ttft_ms=item.observed_ttft_ms,
        e2e_ms=item.observed_e2e_ms,
        snapshot=snapshots[item.unit],
    )
