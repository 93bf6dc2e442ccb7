"""A real vLLM server with the plug-in, as a sidecar sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import aiohttp
import anyio
import pytest

from exp.vllm_cpu.command import SERVED_MODEL_NAME
from predictor.errors import StateUnavailable
from predictor.state.plugin import PluginStateSource
from tests.vllm.server import Server
from wire.snapshot import EngineSnapshot

pytestmark = [pytest.mark.vllm, pytest.mark.anyio]


@pytest.fixture
async def plugin(server: Server) -> AsyncIterator[PluginStateSource]:
    """A sidecar's view of the server over shared memory."""
    source = PluginStateSource(f"shm:{server.engine_id}")
    yield source
    await source.close()


async def complete(server: Server, request_id: str, num_prompt_tokens: int, max_tokens: int) -> int:
    """Stream one completion to its end; returns the number of chunks."""
    body = {
        "model": SERVED_MODEL_NAME,
        "prompt": [100 + index for index in range(num_prompt_tokens)],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
    }
    num_chunks = 0
    headers = {"x-request-id": request_id}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.post(f"{server.url}/v1/completions", json=body, headers=headers) as response,
    ):
        assert response.status == 200
        async for line in response.content:
            num_chunks += line.startswith(b"data: {")
    return num_chunks


async def snapshots_during(
    plugin: PluginStateSource, server: Server, requests: dict[str, int], max_tokens: int
) -> list[EngineSnapshot]:
    """Every few milliseconds a snapshot while these requests (id: prompt tokens) are served."""
    seen: list[EngineSnapshot] = []

    async def watch() -> None:
        while True:
            seen.append(await plugin.read())
            await anyio.sleep(0.005)

    async with anyio.create_task_group() as watching:
        watching.start_soon(watch)
        async with anyio.create_task_group() as sending:
            for request_id, num_prompt_tokens in requests.items():
                sending.start_soon(complete, server, request_id, num_prompt_tokens, max_tokens)
        watching.cancel_scope.cancel()
    return [*seen, await until(plugin, lambda snapshot: not snapshot.running)]


async def until(
    plugin: PluginStateSource, holds: Callable[[EngineSnapshot], bool]
) -> EngineSnapshot:
    """The first snapshot of which this holds; engines have their time."""
    while True:
        snapshot = await plugin.read()
        if holds(snapshot):
            return snapshot
        await anyio.sleep(0.005)


async def test_requests_are_seen_from_waiting_to_end(
    plugin: PluginStateSource, server: Server
) -> None:
    """Each request is found by the id that its client gave it, with its tokens and blocks."""
    requests = {"first": 40, "second": 70}
    seen = await snapshots_during(plugin, server, requests, max_tokens=20)
    for request_id, num_prompt_tokens in requests.items():
        states = [
            state
            for snapshot in seen
            for state in snapshot.running
            if state.request_id.startswith(f"cmpl-{request_id}-0-")
        ]
        assert {state.num_prompt_tokens for state in states} == {num_prompt_tokens}
        assert {state.max_tokens for state in states} == {20}
        tokens = [state.num_tokens for state in states]
        assert tokens == sorted(tokens)
        assert num_prompt_tokens < tokens[-1] <= num_prompt_tokens + 20
        # A block of 32 tokens each, for all that are computed or being computed.
        assert all(state.num_blocks == -(-state.num_computed_tokens // 32) for state in states)
    assert max(len(snapshot.running) for snapshot in seen) == 2
    last = seen[-1]
    assert (last.running, last.waiting, last.in_flight) == ([], [], [])
    assert last.num_free_blocks == last.limits.num_gpu_blocks
    assert last.model == SERVED_MODEL_NAME


async def test_batches_are_in_flight_and_then_recorded(
    plugin: PluginStateSource, server: Server
) -> None:
    """While the engine computes a batch is in flight; its shape and duration are kept."""
    before = (await plugin.read()).step
    seen = await snapshots_during(plugin, server, {"timed": 50}, max_tokens=15)
    in_flight = [snapshot for snapshot in seen if snapshot.in_flight]
    assert in_flight
    for snapshot in in_flight:
        [batch] = snapshot.in_flight
        assert -0.01 < snapshot.time - batch.started_at < 60
        assert set(batch.num_scheduled_tokens) == {snapshot.running[0].request_id}
    steps = [step for step in seen[-1].recent_steps if step.step > before]
    assert [step.num_decode_tokens for step in steps] == [0] + [1] * 14
    assert (steps[0].num_prefill_seqs, steps[0].num_prefill_tokens) == (
        1,
        50 - steps[0].num_kv_tokens,
    )
    assert [step.num_kv_tokens for step in steps[1:]] == list(range(50, 64))
    assert all(0.001 < step.duration_s < 60 for step in steps)
    ends = [step.started_at + step.duration_s for step in steps]
    gaps = [later.started_at - end for end, later in zip(ends, steps[1:], strict=False)]
    assert all(abs(gap) < 0.001 for gap in gaps)


async def test_remote_readers_see_the_same(plugin: PluginStateSource, server: Server) -> None:
    """The snapshot over HTTP is the one in shared memory."""
    remote = PluginStateSource(server.snapshot_url, timeout_s=60)
    assert await remote.read() == await plugin.read()
    await remote.close()


async def test_disconnected_client_is_gone_within_a_step(
    plugin: PluginStateSource, server: Server
) -> None:
    """A cancelled request leaves the snapshot long before its answer is whole, and its blocks are
    free again."""
    async with anyio.create_task_group() as client:
        client.start_soon(complete, server, "gone", 30, 1500)
        begun = await until(plugin, lambda it: bool(it.running) and it.running[0].num_tokens > 33)
        client.cancel_scope.cancel()
    last = await until(plugin, lambda it: not it.running)
    # The step that was under way, one more, and those that pass while it is told.
    assert last.step - begun.step < 100
    assert last.num_free_blocks == last.limits.num_gpu_blocks


async def test_unknown_engine_is_unavailable() -> None:
    """A sidecar whose engine is not there is told so."""
    source = PluginStateSource("shm:no-such-engine")
    with pytest.raises(StateUnavailable, match="is the engine running"):
        await source.read()
