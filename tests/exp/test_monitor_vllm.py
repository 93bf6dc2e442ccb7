"""The monitor, with a real engine that dies and comes back, and the plot of what it wrote."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest

from analysis import monitor_plot
from exp.scrapes import GATEWAY, OK, VLLM, Row, cells, read_page, read_rows, row
from tests.deploy.waiting import wait_until
from tests.emulator.process import MODEL, run_emulator

PROJECT = Path(__file__).parents[2]


def complete(url: str) -> None:
    """One request of 20 tokens."""
    body = {"model": MODEL, "prompt": [7] * 40, "max_tokens": 20, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        msgspec.json.encode(body),
        {"content-type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=120).close()


def monitor(output: Path, *options: str) -> subprocess.Popen[str]:
    """The command, as users run it."""
    command = [sys.executable, "-m", "exp.monitor_vllm", "--output", str(output), *options]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def rows_of(output: Path, unit: str) -> list[Row]:
    """What was written of a unit so far."""
    return [one for one in read_rows(output) if one.unit == unit] if output.exists() else []


def test_an_engine_is_watched_until_ctrl_c_and_a_dead_one_is_said_to_be(tmp_path: Path) -> None:
    """Figures of the living, a reason for the dead, and a whole file when it is interrupted."""
    output = tmp_path / "monitor.csv"
    with run_emulator(tmp_path) as engine:
        units = ["--unit", f"a={engine.url}", "--unit", "dead=http://127.0.0.1:9"]
        process = monitor(output, *units, "--interval", "0.2")
        wait_until(lambda: len(rows_of(output, "a")) >= 2)
        complete(engine.url)
        wait_until(lambda: any(one.e2e_mean_ms for one in rows_of(output, "a")))
        engine.process.kill()
        wait_until(lambda: rows_of(output, "a")[-1].state != OK)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    seen = rows_of(output, "a")
    answered = next(one for one in seen if one.e2e_mean_ms)
    assert 0 < (answered.ttft_mean_ms or 0) < (answered.e2e_mean_ms or 0)
    assert sum(one.generation_tokens_per_s or 0 for one in seen) * 0.2 == pytest.approx(20, rel=0.5)
    dead = rows_of(output, "dead")
    assert len(dead) == len(seen)
    assert all("onnect" in one.state and one.num_running is None for one in dead)
    assert f"{len(seen) + len(dead)} rows in {output}" in said


def test_rates_are_since_the_row_before_and_unknown_after_a_restart() -> None:
    """A counter that has fallen belongs to a new process."""
    page = "vllm:generation_tokens_total {}\nvllm:e2e_request_latency_seconds_sum {}\n"
    page += "vllm:e2e_request_latency_seconds_count {}\nvllm:num_requests_running {}\n"
    first = read_page(page.format(100, 2.0, 4, 3), 10.0)
    second = read_page(page.format(150, 3.0, 6, 5), 12.0)
    seen = row("a", VLLM, second, first)
    assert (seen.num_running, seen.generation_tokens_per_s, seen.requests_per_s) == (5, 25, 1)
    assert seen.e2e_mean_ms == 500
    assert seen.kv_cache_usage is None
    again = row("a", VLLM, first, second)
    assert (again.generation_tokens_per_s, again.e2e_mean_ms) == (None, None)


def test_the_engines_of_one_server_are_summed_up() -> None:
    """Requests add up; the use of the KV cache is their mean."""
    page = "".join(
        f'vllm:num_requests_running{{engine="{index}"}} 4\n'
        f'vllm:kv_cache_usage_perc{{engine="{index}"}} {usage}\n'
        for index, usage in enumerate((0.2, 0.6))
    )
    seen = row("a", VLLM, read_page(page, 1.0), None)
    assert seen.num_running == 8
    assert seen.kv_cache_usage == pytest.approx(0.4)
    assert row("g", GATEWAY, read_page("astrolabe_queue_requests 3\n", 1.0), None).num_waiting == 3


def test_the_plot_is_drawn_and_bad_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture and a PDF of what was written; a file of something else is refused."""
    output, picture = tmp_path / "monitor.csv", tmp_path / "monitor.png"
    from_monitor = [
        Row(time_s=second, unit=unit, state=OK if second != 3 else "dead", num_running=second)
        for second in range(6)
        for unit in ("a", "gateway")
    ]
    header = ",".join(name for name in Row.__dataclass_fields__)
    lines = [header, *(",".join(cells(one)) for one in from_monitor)]
    output.write_text("\n".join(lines) + "\n")
    assert monitor_plot.main([str(output), "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    output.write_text(f"{header}\n1,a,ok,many{',' * 9}\n")
    assert monitor_plot.main([str(output)]) == 2
    assert f"{output}:2: " in capsys.readouterr().err
