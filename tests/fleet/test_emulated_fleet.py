"""Emulated engines, sidecars and the gateway as processes, used with the official client."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from exp.fleet.local import emulated_plan
from tests.deploy.waiting import wait_until
from tests.fleet.running import RunningFleet, run_fleet

MODEL = "meta-llama/Llama-2-7b-hf"
FULL_LENGTH = {"ignore_eos": True}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Three emulated units; every test leaves them all healthy."""
    folder = tmp_path_factory.mktemp("fleet")
    with run_fleet(lambda offset: emulated_plan(3, 1.0, offset), folder) as running:
        yield running


def test_a_streamed_chat_is_routed_by_a_what_if_from_plugin_state(fleet: RunningFleet) -> None:
    """Headers tell unit and prediction; the decision log what was observed."""
    with fleet.client() as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Where are the stars?"}],
            max_completion_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=FULL_LENGTH,
            extra_headers={"x-request-id": "stars"},
        )
        chunks = list(raw.parse())
    assert raw.headers["x-request-id"] == "stars"
    assert float(raw.headers["x-astrolabe-predicted-ttft-ms"]) > 0
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24
    # The client has its answer a moment before the gateway has noted it.
    wait_until(lambda: _decision(fleet, "stars")["observed_e2e_ms"] is not None)
    decision = _decision(fleet, "stars")
    assert decision["fallback"] is None
    assert [c["state_source"] for c in decision["candidates"]] == ["plugin"] * 3
    assert decision["observed_output_tokens"] == 24
    assert decision["unit"] == raw.headers["x-astrolabe-unit"]


def test_whole_answers_and_models(fleet: RunningFleet) -> None:
    """Completions and chats without streaming, and the list of models."""
    with fleet.client() as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        answer = client.completions.create(
            model=MODEL, prompt="Stars", max_tokens=8, extra_body=FULL_LENGTH
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8
        chat = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Stars"}], max_completion_tokens=8
        )
        assert chat.choices[0].message.content


def test_errors_reach_the_client_as_the_right_exceptions(fleet: RunningFleet) -> None:
    """From the gateway (unknown model, bad field) and from an engine (prompt too long)."""
    with fleet.client() as client:
        with pytest.raises(openai.NotFoundError, match="nope"):
            client.completions.create(model="nope", prompt="x")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(model=MODEL, prompt="x", max_tokens=-1)
        with pytest.raises(openai.BadRequestError, match="4096"):
            client.completions.create(model=MODEL, prompt=[1] * 5000)
        with pytest.raises(openai.APIStatusError) as error:
            client.completions.create(model=MODEL, prompt="x" * 5_000_000)
        assert error.value.status_code == 413
        assert client.completions.create(model=MODEL, prompt="x", max_tokens=1).choices


def test_an_idle_fleet_is_predicted(fleet: RunningFleet) -> None:
    """With a known length, the median error of E2E on idle units is small."""
    errors = []
    with fleet.client() as client:
        for index in range(12):
            name = f"predicted-{index}"
            client.completions.create(
                model=MODEL,
                prompt=f"{index} stars",
                max_tokens=30,
                extra_body=FULL_LENGTH,
                extra_headers={"x-request-id": name},
            )
    for decision in fleet.get("/admin/decisions"):
        if decision["request_id"].startswith("predicted") and decision["predicted_e2e_ms"]:
            # Compared a token: the expected length is still being learnt.
            predicted = decision["predicted_e2e_ms"] / decision["expected_output_tokens"]
            errors.append(abs(predicted * 30 / decision["observed_e2e_ms"] - 1))
    assert len(errors) >= 10
    assert sorted(errors)[len(errors) // 2] < 0.25


def test_a_burst_is_spread(fleet: RunningFleet) -> None:
    """Thirty requests at once go to all units in similar numbers."""
    with fleet.client() as client, ThreadPoolExecutor(30) as pool:
        units = Counter(pool.map(lambda i: _complete(client, f"{i} burst"), range(30)))
    assert set(units) == {"unit-1", "unit-2", "unit-3"}
    assert max(units.values()) <= 16


def test_splits_are_priced_and_limits_derived_by_the_units_sidecars(fleet: RunningFleet) -> None:
    """All numbers of long units while long prompts are about; largest batches on demand."""

    def change(**body: Any) -> None:
        httpx.put(f"{fleet.gateway}/admin/pools", json=body, timeout=120).raise_for_status()

    def limits() -> set[int | None]:
        return {unit["concurrency_limit"] for unit in fleet.get("/admin/pools")["units"]}

    def are_priced() -> bool:
        """All numbers of long units; one has the requests wait for one another longer than three.
        Where a sidecar was too late there are fewer prices, until the next look."""
        prices = fleet.get("/admin/pools")["prices"]
        if [price["num_long_units"] for price in prices] != [1, 2, 3]:
            return False
        return bool(prices[0]["lateness"] > prices[2]["lateness"] > 0)

    def send(client: openai.OpenAI, index: int) -> None:
        while not seen.is_set():
            _complete(client, [1 + index] * 3000, 40)

    assert limits() == {None}
    # One at a time, so that they wait for one another however far apart this machine sends them.
    change(worker_concurrency_limit=1, pools="predictive")
    seen = threading.Event()
    try:
        with fleet.client() as client, ThreadPoolExecutor(6) as pool:
            sending = [pool.submit(send, client, index) for index in range(6)]
            try:
                wait_until(are_priced)
            finally:
                seen.set()
            for future in sending:
                future.result()
        change(worker_concurrency_limit="auto")
        wait_until(lambda: not {None, 1} & limits())
    finally:
        change(worker_concurrency_limit="none", pools="none")
    assert limits() == {None}


def test_requests_flow_without_a_sidecar_and_it_is_taken_up_again(fleet: RunningFleet) -> None:
    """A killed sidecar's unit is judged by its load; back again, it predicts."""
    fleet.kill("sidecar unit-2")
    with fleet.client() as client, ThreadPoolExecutor(9) as pool:
        units = set(pool.map(lambda i: _complete(client, f"{i} without"), range(9)))
        assert "unit-2" in units
        assert _last_fallback(fleet) in ("imputed", "least_outstanding")
        fleet.mend()
        wait_until(lambda: bool(_complete(client, "again")) and _last_fallback(fleet) is None)


def test_an_engine_killed_mid_stream_hurts_its_own_clients_only(fleet: RunningFleet) -> None:
    """Its clients get an error, the others all their tokens, and the unit comes back."""
    started, outcomes = threading.Barrier(7, timeout=240), []

    def stream(index: int) -> None:
        with fleet.client() as client:
            raw = client.completions.with_raw_response.create(
                model=MODEL,
                prompt=f"{index} mid-stream",
                max_tokens=120,
                stream=True,
                extra_body=FULL_LENGTH,
            )
            chunks = iter(raw.parse())
            next(chunks)
            started.wait()
            outcome = "whole"
            try:
                num_chunks = 1 + sum(1 for chunk in chunks if chunk.choices)
                assert num_chunks >= 60, "streams of the other units lose nothing"
            except openai.APIError:
                outcome = "error"
            outcomes.append((raw.headers["x-astrolabe-unit"], outcome))

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(stream, index) for index in range(6)]
        started.wait()
        fleet.kill("engine unit-1")
        for future in futures:
            future.result(timeout=240)
    by_unit = {unit: {o for u, o in outcomes if u == unit} for unit, _ in outcomes}
    assert by_unit == {"unit-1": {"error"}, "unit-2": {"whole"}, "unit-3": {"whole"}}
    wait_until(lambda: fleet.healthy_units() == {"unit-2", "unit-3"})
    with fleet.client() as client:
        assert _complete(client, "survivors") in ("unit-2", "unit-3")
        fleet.mend()
        wait_until(lambda: "unit-1" in fleet.healthy_units())
        seen: set[str] = set()
        for index in itertools.count():
            seen.add(_complete(client, f"{index} back"))
            if "unit-1" in seen:
                break
            assert index < 50, "the unit that came back gets requests again"
    wait_until(lambda: all(u["num_outstanding"] == 0 for u in fleet.get("/admin/units")))


def _complete(client: openai.OpenAI, prompt: str | list[int], max_tokens: int = 20) -> str:
    """The unit that answered."""
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt=prompt, max_tokens=max_tokens, extra_body=FULL_LENGTH
    )
    assert raw.parse().choices
    return raw.headers["x-astrolabe-unit"]


def _decision(fleet: RunningFleet, request_id: str) -> Any:
    """The logged decision on a request."""
    return next(d for d in fleet.get("/admin/decisions") if d["request_id"] == request_id)


def _last_fallback(fleet: RunningFleet) -> str | None:
    fallback: str | None = fleet.get("/admin/decisions?limit=1")[0]["fallback"]
    return fallback
