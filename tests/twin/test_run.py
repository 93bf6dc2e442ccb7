"""Cases played to their end: the gateway's own parts on the twin's units."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError

from exp.study.case import (
    Case,
    Failure,
    Fleet,
    Goals,
    LengthBelief,
    TwinOptions,
    UnitGroup,
    WorkloadSpec,
)
from exp.study.records import RequestRecord
from exp.twin.beliefs import Beliefs
from exp.twin.fleet import TwinFleet
from exp.twin.run import run_case
from exp.workloads.request import WorkloadRequest
from wire.model_config import ConfigError

NUM = 120


def case_of(rate_per_s: float = 6.0, **given: Any) -> Case:
    """Three A30s and chats."""
    fleet = Fleet(groups=(UnitGroup(gpu="A30", count=3),))
    fields: dict[str, Any] = {
        "scenario": "test",
        "system": "test",
        "gateway": {},
        "fleet": fleet,
        "workload": WorkloadSpec(
            source="synthetic",
            num_requests=NUM,
            prompt_tokens="50-800",
            output_tokens="20-200",
        ),
        "rate_per_s": rate_per_s,
        "seed": 3,
    }
    return Case(**(fields | given))


def played(**given: Any) -> list[RequestRecord]:
    return run_case(case_of(**given))


def without_machine_time(records: Sequence[RequestRecord]) -> list[dict[str, Any]]:
    return [asdict(record) | {"decision_ms": None} for record in records]


def p99_ttft_ms(records: Sequence[RequestRecord]) -> float:
    return float(np.quantile([one.ttft_ms for one in records if one.ttft_ms is not None], 0.99))


def test_every_request_is_answered_and_its_figures_agree() -> None:
    """Whole answers, latencies in their order, predictions beside what happened."""
    records = played()
    assert len(records) == NUM
    for record in records:
        assert record.outcome == "ok"
        assert record.ttft_ms is not None
        assert record.e2e_ms is not None
        assert 0 < record.ttft_ms <= record.e2e_ms
        assert record.tpot_ms == pytest.approx(
            (record.e2e_ms - record.ttft_ms) / (record.num_output_tokens - 1)
        )
    predicted = [one.predicted_e2e_ms for one in records if one.predicted_e2e_ms is not None]
    assert len(predicted) == NUM
    assert {record.unit for record in records} == {"unit-01", "unit-02", "unit-03"}


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    """Whatever the machine does meanwhile."""
    first = without_machine_time(played())
    assert first == without_machine_time(played())
    assert first != without_machine_time(played(seed=4))


@pytest.mark.parametrize("num_steps", [1, 10, 50])
def test_an_interrupted_run_leaves_nothing_behind(
    num_steps: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether requests are still to come, under way or just sent: no task is left to be destroyed
    while it is pending, which is logged, and none that was never awaited, which is a warning.
    """
    left = iter(range(num_steps))

    def advance(fleet: TwinFleet, until_s: float) -> float:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return play(fleet, until_s)

    play = TwinFleet.advance
    monkeypatch.setattr(TwinFleet, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        played(gateway={"pools": "predictive"})
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("system", ["round_robin", "min_llumnix_load", "min_total_delay"])
def test_true_lengths_decide_nothing_that_they_should_not(system: str) -> None:
    """With equal beliefs, longer answers do not change where requests go before one has ended."""
    case = case_of(gateway={"policy": system}, lengths=LengthBelief(kind="running_mean"))
    case = msgspec.structs.replace(case, twin=TwinOptions(is_calibrated=False, step_noise=0.0))

    def first_units(num_output_tokens: int) -> list[str]:
        requests = [
            WorkloadRequest(
                request_id=f"r{index}",
                at_s=0.01 * index,
                num_prompt_tokens=60 + index,
                num_output_tokens=num_output_tokens,
            )
            for index in range(20)
        ]
        return [record.unit for record in run_case(case, requests)]

    assert first_units(40) == first_units(400)


def test_requests_of_a_unit_that_dies_go_elsewhere_or_fail_and_it_is_used_again() -> None:
    """Those without a first token are tried again; nobody is lost; later the unit takes some."""
    failure = Failure(unit=1, at_s=5.0, for_s=4.0)
    records = played(rate_per_s=10.0, twin=TwinOptions(failures=(failure,)))
    assert {record.outcome for record in records} <= {"ok", "failed"}
    failed = [record for record in records if record.outcome == "failed"]
    assert 0 < len(failed) < 20
    assert all(record.unit == "unit-02" and record.ttft_ms is not None for record in failed)
    down = [record for record in records if 5.1 < record.at_s < 8.9]
    assert down
    assert all(record.unit != "unit-02" for record in down)
    assert any(record.unit == "unit-02" for record in records if record.at_s > 10.5)


def test_standby_units_join_when_requests_are_late() -> None:
    """Two of three units are away until the load asks for them."""
    fleet = Fleet(groups=(UnitGroup(gpu="A30", count=3),), num_standby=2, standby_start_s=2.0)
    joined = {"provisioning_limit_ms": "300", "provisioning_cooldown_s": "1"}
    workload = msgspec.structs.replace(case_of().workload, num_requests=400)
    records = played(rate_per_s=20.0, fleet=fleet, gateway=joined, workload=workload)
    assert all(record.outcome == "ok" for record in records)
    assert {record.unit for record in records[:20]} == {"unit-01"}
    assert {record.unit for record in records[-50:]} == {"unit-01", "unit-02", "unit-03"}


def test_standby_units_that_may_not_be_spared_are_there_from_the_start() -> None:
    """One of the two is among the fewest units that there may be."""
    fleet = Fleet(groups=(UnitGroup(gpu="A30", count=3),), num_standby=2, standby_start_s=1e6)
    records = played(fleet=fleet, gateway={"min_units": "2"})
    assert {record.unit for record in records[:10]} == {"unit-01", "unit-02"}
    assert {record.unit for record in records} == {"unit-01", "unit-02"}


def test_llumnix_moves_requests_away_from_full_units() -> None:
    """With little memory; who moves keeps what was computed and still gets a whole answer."""
    fleet = Fleet(groups=(UnitGroup(gpu="A30", count=3),))
    workload = WorkloadSpec(
        source="synthetic", num_requests=200, prompt_tokens="300-900", output_tokens="50-900"
    )
    case = case_of(rate_per_s=9.0, fleet=fleet, workload=workload, gateway={"policy": "random"})
    stay = run_case(case)
    move = run_case(msgspec.structs.replace(case, twin=TwinOptions(migration="llumnix")))
    assert sum(record.num_migrations for record in stay) == 0
    assert sum(record.num_migrations for record in move) > 10
    lengths = {record.request_id: record.num_output_tokens for record in stay}
    assert {record.request_id: record.num_output_tokens for record in move} == lengths
    assert p99_ttft_ms(move) < p99_ttft_ms(stay)


def test_prediction_beats_chance() -> None:
    """What all of this is for: the tail of the TTFT on units of unequal speed."""
    fleet = Fleet(groups=(UnitGroup(gpu="A30", count=2), UnitGroup(gpu="A30", count=1, speed=0.5)))
    workload = msgspec.structs.replace(case_of().workload, num_requests=400)
    given = {"rate_per_s": 14.0, "fleet": fleet, "workload": workload}
    blind = played(gateway={"policy": "random"}, **given)
    assert p99_ttft_ms(played(**given)) < p99_ttft_ms(blind)


def test_goals_are_told_and_judged() -> None:
    """A goal that nobody can meet makes no answer good; refusing is counted as that."""
    goals, shed = {"*": Goals(ttft_ms=1.0, are_sent=True)}, {"slo_miss": "shed", "shed_below": "1"}
    records = played(goals=goals, gateway=shed)
    assert {record.outcome for record in records} == {"rejected"}
    # The gateway's own goals are for those who are sent without.
    records = played(gateway=shed | {"slo": "*=1"})
    assert {record.outcome for record in records} == {"rejected"}
    goals = {"*": Goals(ttft_ms=60_000.0, are_sent=True)}
    records = played(goals=goals, gateway=shed | {"slo": "*=1"})
    assert {record.outcome for record in records} == {"ok"}
    assert not any(record.is_good for record in played(goals={"*": Goals(ttft_ms=1.0)}))


def test_what_cannot_be_played_is_named() -> None:
    """Settings that the gateway has not, and GPUs that are too small."""
    with pytest.raises(ValidationError, match="polici"):
        played(gateway={"polici": "random"})
    with pytest.raises(ConfigError, match="A31"):
        played(fleet=Fleet(groups=(UnitGroup(gpu="A31", count=1),)))


def test_the_environment_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the gateway's own variables nor AdaSplit's."""
    before = without_machine_time(played())
    monkeypatch.setenv("ASTROLABE_GATEWAY_POLICY", "random")
    monkeypatch.setenv("WORKER_CONCURRENCY_LIMIT", "1")
    assert without_machine_time(played()) == before


def test_quantiles_are_as_wide_as_they_should_be() -> None:
    """Told distributions hold nine lengths of ten below their 0.9 quantile."""
    requests = [
        WorkloadRequest(request_id=str(n), at_s=0.0, num_prompt_tokens=10, num_output_tokens=300)
        for n in range(2_000)
    ]
    beliefs = Beliefs(LengthBelief(kind="quantiles", error=0.6), requests, seed=0)
    told = [beliefs.estimate("m", request) for request in requests]
    below = [one.quantiles["0.9"] >= 300 for one in told]
    assert np.mean(below) == pytest.approx(0.9, abs=0.03)
    noisy = Beliefs(LengthBelief(kind="noisy", error=0.3), requests, seed=0)
    errors = np.log([noisy.estimate("m", request).mean_tokens / 300 for request in requests])
    assert errors.std() == pytest.approx(0.3, abs=0.02)
