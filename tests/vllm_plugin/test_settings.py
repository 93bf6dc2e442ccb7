"""The plug-in's settings."""

from __future__ import annotations

import pytest

from predictor.vllm_plugin.settings import PluginSettings, read_settings


@pytest.mark.parametrize(
    ("environ", "argv", "index", "expected"),
    [
        ({}, ["api_server"], 0, PluginSettings("vllm-pid-42", None)),
        ({}, ["x", "--port", "8001"], 0, PluginSettings("vllm-8001", None)),
        ({}, ["x", "--port=8001"], 1, PluginSettings("vllm-8001-1", None)),
        (
            {"ASTROLABE_ENGINE_ID": "a", "ASTROLABE_SNAPSHOT_LISTEN": "127.0.0.1:8301"},
            ["x", "--port", "8001"],
            2,
            PluginSettings("a-2", "127.0.0.1:8303"),
        ),
        (
            {"ASTROLABE_ENGINE_ID": "a", "ASTROLABE_SNAPSHOT_LISTEN": "unix:/run/a"},
            [],
            1,
            PluginSettings("a-1", "unix:/run/a-1"),
        ),
    ],
)
def test_each_engine_of_a_server_has_its_own_id_and_address(
    environ: dict[str, str], argv: list[str], index: int, expected: PluginSettings
) -> None:
    """Environment first, then the API server's port, then the process id; then the DP index."""
    assert read_settings(environ, argv, 42, index) == expected
