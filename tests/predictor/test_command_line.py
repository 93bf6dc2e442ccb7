"""``python -m predictor``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.__main__ import main
from tests.predictor.engines import MODEL_PATH

USABLE = ["serve", "--model-config", str(MODEL_PATH), "--gpu", "A30"]


def test_without_arguments_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """With its commands and an example."""
    assert main([]) == 0
    assert "serve" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["server"], "'server'"),
        (["serve"], "--model-config"),
        ([*USABLE, "--port", "many"], "--port: Input should be a valid integer"),
        ([*USABLE, "--port", "70000"], "got '70000'"),
        ([*USABLE, "--gpu", "A31"], "unknown GPU 'A31'"),
        ([*USABLE, "--engine-url", "localhost:8001"], "got 'localhost:8001'"),
        ([*USABLE, "--snapshot", "tcp://there"], "tcp://there"),
        ([*USABLE, "--engine-id", "a/b"], "'a/b'"),
        ([*USABLE, "--profile", "/nowhere"], "profile '/nowhere'"),
        ([*USABLE, "--backend", "vidur", "--rules", "vllm"], "--rules vllm"),
        (["serve", "--model-config", "/nowhere.json", "--gpu", "A30"], "/nowhere.json"),
    ],
)
def test_a_bad_command_line_is_refused(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the flag and the value; nothing is started."""
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


def test_a_backend_that_is_not_installed_stops_the_sidecar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the package and the command that installs it."""
    monkeypatch.setitem(sys.modules, "vidur", None)
    assert main([*USABLE, "--backend", "vidur"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "--backend vidur: the package vidur is not installed" in error
    assert "bash exp/setup.sh --install-only --extras exp,vidur" in error


def test_settings_can_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each flag has its variable."""
    monkeypatch.setenv("ASTROLABE_PREDICTOR_MODEL_CONFIG", str(tmp_path / "missing.json"))
    monkeypatch.setenv("ASTROLABE_PREDICTOR_GPU", "A30")
    assert main(["serve"]) == 2
    assert "missing.json" in capsys.readouterr().err


def test_without_a_folder_for_compiled_code_the_error_says_what_to_do() -> None:
    """As where neither the installation nor the user's home can be written."""
    ended = subprocess.run(
        [sys.executable, "-m", "predictor", "compile"],
        env=os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 2
    assert "set NUMBA_CACHE_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr
