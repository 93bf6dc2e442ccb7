"""Fixtures that start real vLLM servers, which takes long: one for all tests that can share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vllm.server import Server, running_server

# Two layers of random weights: steps of some milliseconds, and answers that end anywhere.
TINY = ("--load-format", "dummy", "--hf-overrides", '{"num_hidden_layers": 2}')
KV_CACHE_MIB = 16


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tiny model in little memory."""
    folder = tmp_path_factory.mktemp("vllm")
    with running_server(folder, KV_CACHE_MIB * 2**20, extra_args=TINY) as server:
        yield server
