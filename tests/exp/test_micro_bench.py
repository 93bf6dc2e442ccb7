"""The best concurrency of a unit, found on a real emulated engine and by hand-made levels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exp.concurrency import Level, best_level, is_enough
from exp.micro_bench import main
from tests.emulator.process import run_emulator

PROJECT = Path(__file__).parents[2]


def level(
    concurrency: int, tokens_per_s: float, tpot_ms: float = 10.0, e2e_ms: float = 100.0
) -> Level:
    """One that was measured."""
    return Level(
        concurrency=concurrency,
        requests=10,
        output_tokens_per_s=tokens_per_s,
        ttft_ms_mean=1.0,
        ttft_ms_p90=1.0,
        tpot_ms_mean=tpot_ms,
        tpot_ms_p90=tpot_ms,
        e2e_ms_mean=e2e_ms,
    )


def test_the_knee_is_where_more_costs_more_than_it_gains() -> None:
    """The highest throughput over response time; two levels beyond it end the search."""
    seen = [level(1, 100), level(2, 190), level(4, 350, e2e_ms=120), level(8, 400, e2e_ms=200)]
    best = best_level(seen, None)
    assert best is not None
    assert best.concurrency == 4
    assert is_enough([*seen, level(16, 400, e2e_ms=400)], None)
    assert not is_enough(seen, None)


def test_the_largest_that_keeps_the_goal() -> None:
    """Throughput does not matter then; the first level that misses the goal ends the search."""
    seen = [level(1, 100, 10), level(2, 190, 20), level(4, 200, 51)]
    best = best_level(seen, 50)
    assert best is not None
    assert best.concurrency == 2
    assert is_enough(seen, 50)
    assert not is_enough(seen[:2], 50)
    assert best_level(seen, 5) is None


def test_an_engine_is_measured_and_its_limit_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine runs eight at a time at most; the host file keeps all else."""
    hosts = tmp_path / "hosts.json"
    node = {"hostname": "n", "gpu_type": "A30", "num_gpus": 2, "user": "me"}
    data = {"nodes": [node], "vllm_port": 9000, "scheduler": {"policy": "random"}}
    hosts.write_text(json.dumps(data))
    options = ["--hosts", str(hosts), "--unit", "n-2", "--write"]
    options += ["--prompt-tokens", "16", "--output-tokens", "30", "--seconds", "0.5"]
    with run_emulator(tmp_path, "--speed", "0.2") as engine:
        assert main(["--url", engine.url, *options]) == 0
    said = capsys.readouterr().out
    result = json.loads(said.splitlines()[-1])
    assert result["best"] in (4, 8)  # a busy machine may slow a level down
    assert [one["concurrency"] for one in result["levels"]][:4] == [1, 2, 4, 8]
    marked = next(line for line in said.splitlines() if "<- best" in line)
    assert marked.startswith(f"{result['best']} ")
    written = json.loads(hosts.read_text())
    assert written["nodes"][0].pop("worker_concurrency_limits") == {"n-2": result["best"]}
    assert written == data


def test_what_cannot_be_measured_is_said_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server, no such unit, an impossible goal, options that do not go together."""
    hosts = tmp_path / "hosts.json"
    text = json.dumps({"nodes": [{"hostname": "n", "gpu_type": "A30", "num_gpus": 1}]})
    hosts.write_text(text)
    file = ["--hosts", str(hosts), "--write"]
    assert main(["--url", "http://127.0.0.1:9", *file, "--unit", "n-1"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
    assert main([*file, "--unit", "n-3"]) == 1
    assert "no unit 'n-3'; its units are n-1" in capsys.readouterr().err
    quick = ["--output-tokens", "4", "--seconds", "0.1", "--tpot-goal-ms", "0.01"]
    with run_emulator(tmp_path) as engine:
        assert main(["--url", engine.url, *file, "--unit", "n-1", *quick]) == 1
    assert "misses the goal" in capsys.readouterr().err
    assert hosts.read_text() == text
    with pytest.raises(SystemExit):
        main(["--url", "http://127.0.0.1:9", "--write"])
