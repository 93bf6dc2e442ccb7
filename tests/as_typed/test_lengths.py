"""Training a length estimator and putting it to use."""

from __future__ import annotations

import json

import pytest

from tests.as_typed.claims import types
from tests.as_typed.shell import Shell
from tests.as_typed.test_servers import ADDRESS, ask, start_unit

SMALL = {"ASTROLABE_SAMPLE_LIMIT": "300"}
"""Conversations to read: some minutes become seconds."""
INSTALL = "bash exp/setup.sh --install-only --extras exp,estimator"
SAMPLE = "python3 length_estimation/sample.py"
TRAIN = "python3 length_estimation/train_roberta.py"
EVALUATE = "python3 length_estimation/eval_roberta.py --tag-data True"


@pytest.mark.slow
@types(INSTALL, SAMPLE, TRAIN, EVALUATE)
def test_a_model_of_ones_own(shell: Shell) -> None:
    """The README's four commands make data and a model, which is scored, tags the data, and
    estimates lengths in the gateway."""
    shell.type(INSTALL)
    for command in (SAMPLE, TRAIN):
        assert "next" in shell.type(command, env=SMALL).out
    scored = shell.type(EVALUATE, env=SMALL).out
    assert json.loads(scored.splitlines()[-1])["unseen_in_training"]
    data = shell.checkout / ".astrolabe/data"
    assert (data / "sharegpt").is_dir()
    assert (data / "sharegpt-tagged").is_dir()
    start_unit(shell)
    gateway = "python -m global_scheduler --length-estimator .astrolabe/models/lengths"
    unit = "--unit a=http://127.0.0.1:8001,http://127.0.0.1:8101"
    shell.start(f"{gateway} {unit}", ready=f"{ADDRESS}/v1/models")
    ask(shell)
    decision = json.loads(shell.get(f"{ADDRESS}/admin/decisions?limit=1"))[0]
    assert decision["length_source"] == "model"


@types("python -m length_estimation sample", "python -m length_estimation serve")
def test_the_same_commands_by_module(shell: Shell) -> None:
    """They are the scripts' own code; what they do is held above and in ``test_serve``."""
    for command in ("sample", "serve"):
        helped = shell.type_instead(
            f"python -m length_estimation {command}",
            f"python -m length_estimation {command} --help",
            because="the first is typed above by its other name, the second serves for ever",
        )
        assert "usage:" in helped.out
