"""Which unit would have been the fastest: asked afterwards, when the answers' lengths are known.

Just before each request is sent, the state of every unit is kept. When all answers have ended, each
state is played forward with the request in it and with the true length of every answer, and the
unit whose replay ends first is the one that proved fastest. Requests that came later are left out,
as every router must leave them out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from exp.open_loop import SentPrompt
from predictor.simulator.replay import finish_times
from predictor.step_time.base import StepTime
from wire.snapshot import EngineSnapshot, SequenceState

TIE = 1.02
"""Units whose replays end within 2 % of the fastest count as fastest."""
TIMEOUT_S = 2.0


class _State(msgspec.Struct):
    snapshot: EngineSnapshot


@dataclass(frozen=True, slots=True)
class _Moment:
    time: float
    snapshots: dict[str, EngineSnapshot]


class Hindsight:
    """Keeps the units' states at the moments of sending."""

    def __init__(self, session: aiohttp.ClientSession, sidecars: Mapping[str, str]) -> None:
        self._session = session
        self._sidecars = sidecars
        self._moments: dict[str, _Moment] = {}

    async def keep(self, request_id: str) -> None:
        """Keep the state of every unit whose sidecar answers."""
        snapshots = await asyncio.gather(*map(self._snapshot, self._sidecars.values()))
        known = {
            name: snapshot
            for name, snapshot in zip(self._sidecars, snapshots, strict=True)
            if snapshot is not None
        }
        self._moments[request_id] = _Moment(time.time(), known)

    async def _snapshot(self, url: str) -> EngineSnapshot | None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.get(f"{url}/state", timeout=timeout) as response:
                if response.status != 200:
                    return None
                return msgspec.json.decode(await response.read(), type=_State).snapshot
        except (aiohttp.ClientError, asyncio.TimeoutError, msgspec.DecodeError):
            return None

    def best_unit_share(self, ended: Sequence[SentPrompt], step_time: StepTime) -> float | None:
        """The share of requests that went to a unit that proved fastest; None if none is known.

        Args:
            ended: the requests, answered; failed ones are left out.
            step_time: of the units, which are taken as equal.
        """
        answered = [item for item in ended if item.error is None and item.num_prompt_tokens > 0]
        lengths = {item.request_id: item.num_output_tokens for item in answered}
        verdicts = []
        for item in answered:
            e2e_s = self._replay(item, lengths, step_time)
            if len(e2e_s) > 1 and item.unit in e2e_s:
                verdicts.append(e2e_s[item.unit] <= TIE * min(e2e_s.values()))
        return sum(verdicts) / len(verdicts) if verdicts else None

    def _replay(
        self, item: SentPrompt, lengths: Mapping[str, int], step_time: StepTime
    ) -> dict[str, float]:
        """E2E in seconds by unit."""
        moment = self._moments[item.request_id]
        newcomer = SequenceState(
            request_id=item.request_id,
            num_prompt_tokens=item.num_prompt_tokens,
            num_tokens=item.num_prompt_tokens,
            max_tokens=max(1, item.num_output_tokens),
            arrival_time=moment.time,
        )
        e2e_s = {}
        for unit, snapshot in moment.snapshots.items():
            known = _lengths_in(snapshot, lengths) | {item.request_id: newcomer.max_tokens}
            times = finish_times(snapshot, known, newcomer, step_time, moment.time)
            if times is not None:
                e2e_s[unit] = times.e2e_s
        return e2e_s


def _lengths_in(snapshot: EngineSnapshot, lengths: Mapping[str, int]) -> dict[str, int]:
    """Output lengths by the engine's ids, which contain the client's (``chatcmpl-{id}-{hex}``)."""
    found = {}
    for sequence in [*snapshot.running, *snapshot.waiting]:
        known = next((n for rid, n in lengths.items() if f"-{rid}-" in sequence.request_id), None)
        if known is not None:
            found[sequence.request_id] = known
    return found
