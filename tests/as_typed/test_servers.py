"""Sidecars and gateways beside servers of one's own, and how a gateway is told to schedule."""

from __future__ import annotations

import json

import pytest

from tests.as_typed.claims import types
from tests.as_typed.shell import Shell
from tests.as_typed.sources import SOURCES

ENGINE = (
    "python -m exp.emulator --port 8001 --model-config config/llama_config.json --gpu A30"
    " --speed 50"
)
SIDECAR = (
    "python -m predictor serve --engine-url http://127.0.0.1:8001 --model-config"
    " config/llama_config.json --gpu A100-80G --host 0.0.0.0 --port 8101"
)
GATEWAY = "python -m global_scheduler"
UNIT = "--unit a=http://127.0.0.1:8001,http://127.0.0.1:8101"
TWO_HOSTS = (
    f"{GATEWAY} --unit a=http://host-a:8001,http://host-a:8101"
    " --unit b=http://host-b:8001,http://host-b:8101"
)
DYNAMIC = f"{GATEWAY} --env-file config/router_dynamic.env"
ADDRESS = "http://127.0.0.1:8200"
QUESTION = {"model": "meta-llama/Llama-2-7b-hf", "prompt": "Where are the stars?", "max_tokens": 8}
SCHEDULERS = tuple(one.command for one in SOURCES if one.command.startswith("--scheduler "))


def start_unit(shell: Shell) -> None:
    """An emulated engine on port 8001 with its sidecar, whose command the README has."""
    shell.start(ENGINE, ready="http://127.0.0.1:8001/health")
    shell.start(SIDECAR, ready="http://127.0.0.1:8101/ready")


def ask(shell: Shell) -> None:
    """A completion from the gateway: it is answered in full."""
    answer = shell.post(f"{ADDRESS}/v1/completions", QUESTION)
    assert 1 <= answer["usage"]["completion_tokens"] <= 8


def last_decision(shell: Shell) -> dict[str, object]:
    """As ``/admin/decisions`` shows it."""
    decisions: list[dict[str, object]] = json.loads(shell.get(f"{ADDRESS}/admin/decisions?limit=1"))
    return decisions[-1]


@types(SIDECAR, TWO_HOSTS)
def test_a_sidecar_and_a_gateway(shell: Shell) -> None:
    """As typed, the sidecar predicts; so does the gateway, its hosts being on this machine."""
    start_unit(shell)
    question = {"request_id": "q", "num_prompt_tokens": 300, "expected_output_tokens": 80}
    assert shell.post("http://127.0.0.1:8101/predict", question)["e2e_ms"] > 0
    here = TWO_HOSTS.replace("host-a", "127.0.0.1").replace("host-b", "127.0.0.1")
    shell.start(here, ready=f"{ADDRESS}/v1/models", written=TWO_HOSTS)
    ask(shell)
    decision = last_decision(shell)
    assert decision["policy"] == "min_total_delay"
    assert decision["fallback"] is None
    assert decision["predicted_e2e_ms"]


@pytest.mark.slow
@types(*SCHEDULERS)
def test_the_sources_names_of_schedulers(shell: Shell) -> None:
    """Each serves, and the log calls it by the name that it has here."""
    start_unit(shell)
    for option in SCHEDULERS:
        gateway = shell.start(
            f"{GATEWAY} {option} {UNIT}", ready=f"{ADDRESS}/v1/models", written=option
        )
        ask(shell)
        name = option.split()[1].replace("lunmnix", "llumnix")
        assert last_decision(shell)["policy"] == name
        shell.stop(gateway)


def test_settings_without_effect_are_named(shell: Shell) -> None:
    """A source's router that asks no sidecar and holds nothing back has no use for an order."""
    start_unit(shell)
    command = f"{GATEWAY} --scheduler min_lunmnix_load --queue-order adaptive {UNIT}"
    shell.start(command, ready=f"{ADDRESS}/v1/models")
    ask(shell)
    settings = json.loads(shell.get(f"{ADDRESS}/admin/settings"))
    assert "queue_order" in {one["setting"] for one in settings["without_effect"]}
    assert all(one["why"] and one["remedy"] for one in settings["without_effect"])


@pytest.mark.slow
@types(DYNAMIC)
def test_adasplits_routers(shell: Shell) -> None:
    """Each file's partition, limit and rules are those of the running gateway."""
    start_unit(shell)
    for command, pools, stealing in (
        (DYNAMIC, "qhap", "rasp"),
        (DYNAMIC.replace("dynamic", "static"), "static", "off"),
    ):
        gateway = shell.start(f"{command} {UNIT}", ready=f"{ADDRESS}/v1/models", written=command)
        settings = json.loads(shell.get(f"{ADDRESS}/admin/settings"))
        assert (settings["pools"], settings["stealing"]) == (pools, stealing)
        assert settings["worker_concurrency_limit"] == 8
        ask(shell)
        shell.stop(gateway)


@types("bash exp/setup.sh --help", "bash exp/experiment.sh --help", "python -m predictor")
def test_help_is_there_for_the_asking(shell: Shell) -> None:
    """All three explain themselves; the last one lists its commands."""
    assert "--hosts" in shell.type("bash exp/setup.sh --help").out
    assert "--quick" in shell.type("bash exp/experiment.sh --help").out
    commands = shell.type("python -m predictor").said
    assert {"serve", "whatif", "record", "profile", "compile"} <= set(commands.split())
