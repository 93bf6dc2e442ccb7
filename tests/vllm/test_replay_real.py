"""The next batch of a live engine, foretold from each of its snapshots."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import aiohttp
import anyio
import msgspec
import pytest

from exp.open_loop import sample_prompts
from exp.vllm_cpu.command import SERVED_MODEL_NAME
from predictor.vllm_plugin.shared_memory import SnapshotReader
from tests.vllm.players import Batch, play_kernel, play_reference
from tests.vllm.server import Server, running_server
from wire.prediction import SentRequest
from wire.snapshot import EngineSnapshot, SequenceState

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.anyio]

NUM_REQUESTS = 300
RATE_PER_S = 12.0
MAX_TOKENS = 200
READ_PAUSE_S = 0.0005
# Two layers of random weights: steps of some milliseconds, and answers that end anywhere, since
# one token in a hundred ends them.
TINY = ("--load-format", "dummy", "--hf-overrides", '{"num_hidden_layers": 2}')
STOP_TOKENS = list(range(100, 600))


class Recorder:
    """Keeps every state that an engine publishes, on a thread of its own."""

    def __init__(self, engine_id: str) -> None:
        self._reader = SnapshotReader(engine_id)
        self._payloads: list[bytes] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """For as long as the block lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()
            self._reader.close()

    def _run(self) -> None:
        last = None
        while not self._stopping.is_set():
            payload = self._reader.try_read()
            if payload is not None and payload != last:
                self._payloads.append(payload)
                last = payload
            time.sleep(READ_PAUSE_S)

    def with_new_batch(self) -> list[EngineSnapshot]:
        """The first state of each step that has a batch in flight, in order."""
        decode = msgspec.msgpack.Decoder(EngineSnapshot).decode
        first: dict[int, EngineSnapshot] = {}
        for payload in self._payloads:
            snapshot = decode(payload)
            if snapshot.in_flight:
                first.setdefault(snapshot.step, snapshot)
        return list(first.values())


async def complete(session: aiohttp.ClientSession, server: Server, name: str, prompt: str) -> int:
    """Number of output tokens, the one that ended the answer included."""
    body = {
        "model": SERVED_MODEL_NAME,
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
        "stop_token_ids": STOP_TOKENS,
        "temperature": 1.0,
    }
    headers = {"x-request-id": name}
    url = f"{server.url}/v1/completions"
    async with session.post(url, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        usage = (await response.json())["usage"]
    return int(usage["completion_tokens"])


async def serve(server: Server) -> dict[str, int]:
    """Send real prompts, in waves that overfill the KV cache; output tokens by request id."""
    rng = random.Random(0)
    lengths: dict[str, int] = {}
    prompts = sample_prompts(NUM_REQUESTS, rng)
    timeout = aiohttp.ClientTimeout(total=120)

    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def one(name: str, prompt: str) -> None:
            lengths[name] = await complete(session, server, name, prompt)

        async with anyio.create_task_group() as sending:
            for index, prompt in enumerate(prompts):
                sending.start_soon(one, f"r{index}", prompt)
                await anyio.sleep(rng.expovariate(RATE_PER_S))
    return lengths


def arrivals_between(before: EngineSnapshot, after: EngineSnapshot) -> list[SequenceState]:
    """Requests that came in between, as they were on their arrival, in the order of admission."""
    known = {state.request_id for state in [*before.running, *before.waiting]}
    states = [s for s in [*after.running, *after.waiting] if s.request_id not in known]
    new = [
        msgspec.structs.replace(
            state,
            num_tokens=state.num_prompt_tokens,
            num_computed_tokens=0,
            num_blocks=0,
            status="waiting",
        )
        for state in states
    ]
    return sorted(new, key=lambda state: state.arrival_time)


def sent_requests(
    snapshot: EngineSnapshot, unseen: list[SequenceState], lengths: dict[str, int]
) -> list[SentRequest]:
    """What a gateway tells: the true lengths of all, and what the engine has not seen."""
    return [
        SentRequest(
            request_id=state.request_id,
            num_prompt_tokens=state.num_prompt_tokens,
            expected_output_tokens=lengths[state.request_id],
            max_tokens=state.max_tokens,
            sent_age_ms=(snapshot.time - state.arrival_time + 1) * 1e3,
        )
        for state in [*snapshot.running, *snapshot.waiting, *unseen]
    ]


def true_lengths(states: list[SequenceState], by_name: dict[str, int]) -> dict[str, int]:
    """Output tokens by the engine's ids, which have the client's between their dashes."""
    return {state.request_id: by_name[state.request_id.split("-")[1]] for state in states}


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("kv_cache_mib", "least_share"),
    [
        pytest.param(32, 0.999, id="ample memory"),
        # A snapshot does not say which blocks are reused first, and hits are not looked up in
        # every step; both matter when preempted requests come back.
        pytest.param(16, 0.98, id="tight memory"),
    ],
)
async def test_next_batches_are_foretold(
    tmp_path: Path, kv_cache_mib: int, least_share: float
) -> None:
    """The next batch is exactly the one that the kernel expects, and the one that the reference
    expects. Requests that come in between are laid over, as a gateway that sent them would.
    """
    with running_server(tmp_path, kv_cache_mib * 2**20, extra_args=TINY) as server:
        recorder = Recorder(server.engine_id)
        with recorder.recording():
            by_name = await serve(server)
    snapshots = recorder.with_new_batch()
    pairs = [(one, two) for one, two in pairwise(snapshots) if two.step == one.step + 1]
    assert len(pairs) > 500
    wrong: dict[str, list[int]] = {"kernel": [], "reference": []}
    for before, after in pairs:
        unseen = arrivals_between(before, after)
        lengths = true_lengths([*before.running, *before.waiting, *unseen], by_name)
        real: list[Batch] = [list(after.in_flight[-1].num_scheduled_tokens.items())]
        # Of two steps the first may be empty.
        kernel = play_kernel(before, sent_requests(before, unseen, lengths), max_steps=2)
        reference = play_reference(before, lengths.__getitem__, unseen, max_steps=1)
        if kernel.batches[:1] != real:
            wrong["kernel"].append(before.step)
        if reference.batches != real:
            wrong["reference"].append(before.step)
    for steps in wrong.values():
        assert len(steps) <= (1 - least_share) * len(pairs), (wrong, len(pairs))
