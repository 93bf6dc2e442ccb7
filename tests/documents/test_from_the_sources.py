"""What docs/from_the_sources.md says of this project is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from global_scheduler.__main__ import read_settings
from global_scheduler.settings import GatewaySettings
from tests.global_scheduler.fleet import ScriptedEngine, fleet
from wire.model_config import ModelConfig

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs/from_the_sources.md"
NOT_BUILT = "not built yet"
SERVICES = ("wire", "predictor", "global_scheduler", "length_estimation")
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\.\.\.")


class Row(NamedTuple):
    """What a source says, and what this project says to it."""

    section: str
    source: str
    here: str
    reason: str

    @property
    def spans(self) -> list[str]:
        """All code in what this project says."""
        return spans_of(f"{self.here} {self.reason}")


def spans_of(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def read_rows() -> Iterator[Row]:
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith(("| the source |", "| --- |")):
            cells = [cell.strip() for cell in line.strip().removesuffix("|").split("|")[1:]]
            assert len(cells) == 3, line
            yield Row(section, *cells)


ROWS = tuple(read_rows())
SPANS = tuple(dict.fromkeys(span for row in ROWS for span in row.spans))
OPTIONS = tuple(span for span in SPANS if span.startswith("--"))
COMMANDS = tuple(span for span in SPANS if span.startswith(("python ", "bash ")))


def test_no_row_is_without_an_answer() -> None:
    """Nor without a question."""
    assert len(ROWS) > 150
    assert [row for row in ROWS if not row.source or not row.here] == []


def test_every_path_exists() -> None:
    """Those that begin with a folder of the project, and files at its root; not what runs make."""
    made_by_runs = {"results", ".astrolabe"}
    folders = {path.name for path in PROJECT.iterdir() if path.is_dir()} - made_by_runs
    paths = [span for span in SPANS if re.fullmatch(r"[\w./-]+", span)]
    ours = [span for span in paths if "/" in span and span.split("/")[0] in folders]
    ours += [span for span in paths if span in ("pyproject.toml", "LICENSE")]
    assert len(ours) > 40
    # Where a manifest is looked for, and written if there is none.
    made_when_needed = {"config/cluster.yaml"}
    assert {path for path in ours if not (PROJECT / path).exists()} <= made_when_needed


def test_what_is_said_to_stand_in_a_file_stands_there() -> None:
    """``NAME`` in ``FILE``."""
    claims = re.findall(r"`(\w+)` in `([\w./]+\.py)`", PAGE.read_text(encoding="utf-8"))
    assert len(claims) > 5
    missing = [
        (name, file)
        for name, file in claims
        if not re.search(rf"\b{name}\b", _text(PROJECT / file))
    ]
    assert missing == []


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_one_of_the_gateway(option: str) -> None:
    """With its value, where that is none to be filled in."""
    words = shlex.split(option)
    names = [word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")]
    assert set(names) <= set(GatewaySettings.model_fields)
    if len(words) > len(names) and not PLACEHOLDER.search(option):
        settings = read_settings(words)
        assert names[0] in settings.model_fields_set


def test_every_variable_is_one_of_the_gateway() -> None:
    """But for those of sidecars."""
    prefix = "ASTROLABE_GATEWAY_"
    variables = [span for span in SPANS if span.startswith(prefix)]
    names = {span.removeprefix(prefix).lower() for span in variables}
    assert names
    assert names <= set(GatewaySettings.model_fields)


@pytest.mark.timeout(1_800)  # some load torch, which takes long where a machine is busy
def test_every_command_has_help_that_names_its_flags() -> None:
    """And ends well."""
    flags_of: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for command in COMMANDS:
        words = shlex.split(command)
        ends = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        flags_of[tuple(words[:ends])] |= {word for word in words[ends:] if len(word) > 2}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        helps = dict(zip(flags_of, threads.map(_help, flags_of), strict=True))
    for call, flags in flags_of.items():
        known = set(re.findall(r"--[\w-]+", helps[call]))
        asked = {flag.partition("=")[0] for flag in flags if flag.startswith("--")}
        assert asked <= known, f"{shlex.join(call)} does not know {sorted(asked - known)}"


def test_files_of_settings_are_read() -> None:
    """Whole command lines of the gateway."""
    calls = [span for span in COMMANDS if span.startswith("python -m global_scheduler --env-file")]
    assert len(calls) == 2
    for call in calls:
        assert read_settings(shlex.split(call)[3:]).pools in ("static", "qhap")


@pytest.mark.anyio
async def test_metrics_and_routes_are_the_gateway_s() -> None:
    """As a running one shows them."""
    metrics = {span for span in SPANS if re.fullmatch(r"astrolabe_\w+", span)}
    routes = {span for span in SPANS if re.match(r"(GET|PUT|POST|DELETE) /(?!v1/)", span)}
    assert len(metrics) > 5
    assert len(routes) > 5
    async with fleet(ScriptedEngine()) as running:
        text = (await running.client.get("/metrics")).text
        paths = (await running.client.get("/openapi.json")).json()["paths"]
        complete = await running.complete()
    assert complete.status_code == 200
    assert {name for name in metrics if f"# TYPE {name} " not in text} == set()
    known = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert routes - known == set()


def test_keys_of_engines_flags_are_keys_of_model_configurations() -> None:
    """What stands for a flag of vLLM can be set."""
    rows = [row for row in ROWS if row.section.startswith("vLLM's flags")]
    keys = {span for row in rows for span in spans_of(row.here) if re.fullmatch(r"[a-z_]+", span)}
    assert len(keys) > 4
    assert keys <= set(ModelConfig.model_fields)


def test_what_is_not_built_is_not_there() -> None:
    """So that whoever builds it writes down what it is."""
    code = "\n".join(
        _text(file) for service in SERVICES for file in sorted((PROJECT / service).rglob("*.py"))
    )
    absent = [row for row in ROWS if row.here.startswith(NOT_BUILT)]
    named = [span for row in absent for span in spans_of(row.source)]
    classes = {name for span in named for name in re.findall(r"\b[A-Z][a-z]+[A-Z]\w+", span)}
    variables = {name for span in named for name in re.findall(r"\bVLLM_SL\w+", span)}
    assert len(classes) > 10
    assert len(variables) > 15
    built = {name for name in classes if re.search(rf"^class {name}\b", code, re.MULTILINE)}
    built |= {name for name in variables if name in code}
    assert built == set()


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _help(call: tuple[str, ...]) -> str:
    """What the command says of itself."""
    words = [sys.executable if word == "python" else word for word in call]
    ended = subprocess.run(
        [*words, "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{shlex.join(call)} --help: {ended.stderr[-500:]}"
    return ended.stdout
