"""The command line of studies, and the catalogue behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exp.study.arguments import parse
from exp.study.catalogue import STUDIES, build_study
from exp.study.errors import PlanError
from exp.study.systems import SYSTEMS
from global_scheduler.settings import GatewaySettings


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("is_quick", [False, True])
def test_every_study_is_one_that_can_be_run(name: str, is_quick: bool) -> None:
    """Its systems are settings that the gateway has, its names are unique, and it draws figures."""
    trace = {"burstgpt": "b.csv", "azure": "a.csv"}
    study = build_study(name, trace, is_quick=is_quick)
    assert study.pairs()
    assert len({one.name for one in study.scenarios}) == len(study.scenarios)
    assert len({one.name for one in study.systems}) == len(study.systems)
    assert study.baseline is None or study.baseline in {one.name for one in study.systems}
    assert study.plots
    for scenario, system in study.pairs():
        assert scenario.rates_per_s or scenario.capacity_near_per_s
        GatewaySettings.model_validate(study.case(scenario, system, 1.0, 1).gateway)
    for scenario in study.scenarios:
        assert set(scenario.only) <= {one.name for one in study.systems}


def test_quick_studies_are_short() -> None:
    """Two seeds, and fewer rates and requests, the highest rate among them."""
    whole, quick = (build_study("main", {}, is_quick=is_quick) for is_quick in (False, True))
    assert (whole.num_seeds, quick.num_seeds) == (5, 2)
    assert len(quick.scenarios[0].rates_per_s) == 3
    assert max(quick.scenarios[0].rates_per_s) == max(whole.scenarios[0].rates_per_s)
    assert quick.scenarios[0].workload.num_requests < whole.scenarios[0].workload.num_requests


def test_what_is_run_can_be_chosen() -> None:
    """Seeds, rates, systems, scenarios and requests; the baseline goes if it is left out."""
    seeds, rates = ["--seeds", "3", "--first-seed", "11"], ["--rates", "20,10", "--no-capacity"]
    only = ["--systems", "astrolabe,block", "--scenarios", "equal_12", "--requests", "50"]
    command = parse(["main", *seeds, *rates, *only])
    assert list(command.options.seeds) == [11, 12, 13]
    (scenario,) = command.study.scenarios
    assert scenario.rates_per_s == (10.0, 20.0)
    assert scenario.workload.num_requests == 50
    assert scenario.capacity_near_per_s is None
    assert [one.name for one in command.study.systems] == ["block", "astrolabe"]
    assert command.study.baseline is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nonsense", "unknown study 'nonsense'; known are main"),
        ("main --systems block,nobody", "--systems nobody: the study has random, round_robin"),
        ("main --scenarios equal_12 --systems nobody", "--systems nobody"),
        ("main --scenarios equal_3 --systems block", "nothing is left to run"),
        ("main --backend cluster", "--gateway URL belongs to --backend cluster"),
        ("main --gateway http://127.0.0.1:1", "--gateway URL belongs to --backend cluster"),
        ("main --backend emulated --ray local", "--ray runs twins, not --backend emulated"),
        ("extension --trace burstgpt=/nowhere", "no such file"),
        ("extension --trace mooncake=/etc/hosts", "must be burstgpt=FILE or azure=FILE"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(words: str, message: str) -> None:
    """Before anything is run."""
    with pytest.raises(PlanError, match=message):
        parse(words.split())


@pytest.mark.parametrize("words", ["main --rates 0", "main --rates 1,x", "main --seeds 0"])
def test_numbers_are_checked(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the flag and the value."""
    with pytest.raises(SystemExit):
        parse(words.split())
    assert words.split()[1] in capsys.readouterr().err


def test_traces_become_scenarios(tmp_path: Path) -> None:
    """Of the files that are given, whatever the folder they are named from."""
    file = tmp_path / "burst.csv"
    file.write_text("")
    command = parse(["extension", "--trace", f"burstgpt={file}"])
    names = [one.name for one in command.study.scenarios]
    assert names == ["qwen_sharegpt", "llama_burstgpt"]
    assert command.study.scenarios[1].workload.path == str(file.resolve())


def test_baselines_hold_nothing_back() -> None:
    """The gateway sends their requests on at once, as the routers do that they stand for."""
    for name in ("random", "round_robin", "token_load", "llumnix_minus", "block"):
        assert SYSTEMS[name].gateway["pools"] == "none"
        assert SYSTEMS[name].gateway["worker_concurrency_limit"] == "none"
        assert SYSTEMS[name].gateway["hold_above_ms"] == "never"
