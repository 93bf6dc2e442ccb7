"""Two real vLLM servers behind the gateway, used with the official client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from exp.fleet.local import vllm_cpu_plan
from exp.vllm_cpu.command import SERVED_MODEL_NAME
from tests.deploy.waiting import wait_until
from tests.fleet.running import RunningFleet, run_fleet

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PROMPTS = ["Name three constellations.", "What does an astrolabe measure?", "Count to twenty."]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Two units with our plug-in, their sidecars and the gateway, which waits for what-ifs however
    long a machine takes that has two engines to run."""
    folder, patience = tmp_path_factory.mktemp("fleet"), {"prediction_deadline_ms": "60000"}
    with run_fleet(lambda offset: vllm_cpu_plan(2, offset, patience), folder) as running:
        yield running


def test_streamed_chats_are_predicted_from_plugin_state(fleet: RunningFleet) -> None:
    """Decisions see the live state of both units, and both units answer."""

    def chat(index: int) -> str:
        with fleet.client() as client:
            raw = client.chat.completions.with_raw_response.create(
                model=SERVED_MODEL_NAME,
                messages=[{"role": "user", "content": PROMPTS[index % len(PROMPTS)]}],
                max_completion_tokens=24,
                temperature=0.0,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = list(raw.parse())
        assert chunks[-1].usage is not None
        assert 0 < chunks[-1].usage.completion_tokens <= 24
        assert float(raw.headers["x-astrolabe-predicted-e2e-ms"]) > 0
        return raw.headers["x-astrolabe-unit"]

    with ThreadPoolExecutor(8) as pool:
        units = set(pool.map(chat, range(8)))
    assert units == {"unit-1", "unit-2"}
    # The client has its answer a moment before the gateway has noted it.
    wait_until(lambda: all(d["observed_e2e_ms"] for d in fleet.get("/admin/decisions")))
    decisions = fleet.get("/admin/decisions")
    sources = {c["state_source"] for d in decisions for c in d["candidates"]}
    assert sources == {"plugin"}
    assert {decision["fallback"] for decision in decisions} == {None}
    assert all(decision["observed_ttft_ms"] > 0 for decision in decisions)


def test_whole_answers_come_with_real_text(fleet: RunningFleet) -> None:
    """Unstreamed completions; the gateway's token counts are those of the model's tokenizer."""
    with fleet.client() as client:
        answer = client.completions.create(
            model=SERVED_MODEL_NAME,
            prompt="The capital of France is",
            max_tokens=8,
            temperature=0.0,
            extra_headers={"x-request-id": "capital"},
        )
    assert "Paris" in answer.choices[0].text
    assert answer.usage is not None
    decision = next(d for d in fleet.get("/admin/decisions") if d["request_id"] == "capital")
    assert decision["num_prompt_tokens"] == answer.usage.prompt_tokens
