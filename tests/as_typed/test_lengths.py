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
SAMPLE = ".venv/bin/python -m length_estimation sample --source sharegpt --out data/mine"
TRAIN = (
    ".venv/bin/python -m length_estimation train --data data/mine --out models/mine"
    " --base-model minilm"
)


@pytest.mark.slow
@types(INSTALL, SAMPLE, TRAIN, "python -m length_estimation eval")
def test_a_model_of_ones_own(shell: Shell) -> None:
    """The README's commands make a data set and a model; it is scored and the gateway loads it."""
    shell.type(INSTALL)
    shell.type(SAMPLE, env=SMALL)
    shell.type(TRAIN, env=SMALL)
    assert (shell.checkout / "models/mine/model.onnx").exists()
    scored = shell.type_instead(
        "python -m length_estimation eval",
        "python -m length_estimation eval --data data/mine --model models/mine"
        " --methods mean median",
        because="data and model have the README's names here, not the defaults'",
    )
    assert {"mean", "median"} <= set(json.loads(scored.out.splitlines()[-1])["methods"])
    start_unit(shell)
    gateway = "python -m global_scheduler --length-estimator models/mine"
    unit = "--unit a=http://127.0.0.1:8001,http://127.0.0.1:8101"
    shell.start(f"{gateway} {unit}", ready=f"{ADDRESS}/v1/models")
    ask(shell)
    decision = json.loads(shell.get(f"{ADDRESS}/admin/decisions?limit=1"))[0]
    assert decision["length_source"] == "model"
