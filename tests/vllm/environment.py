"""vLLM's own environment, which tests use but do not make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL_DIR = ROOT / ".astrolabe/models/SmolLM2-135M-Instruct"


def vllm_python() -> Path:
    """The interpreter of ``.venv-vllm``; the test fails if it or the model is not there."""
    python = ROOT / ".venv-vllm/bin/python"
    if not (ROOT / ".venv-vllm/astrolabe-installed").exists() or not MODEL_DIR.is_dir():
        pytest.fail("vLLM is not installed: run `bash exp/vllm_cpu/install.sh` first")
    return python


def quiet_environment() -> dict[str, str]:
    """An environment in which vLLM neither reports usage nor looks for models on a hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
