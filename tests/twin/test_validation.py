"""The validation of the twin: stock Vidur for real, and what makes a comparison fail."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from exp.fleet.display import SilentDisplay
from exp.fleet.local import EMULATED_NOISE
from exp.fleet.temporary import temporary_fleet
from exp.gateway_admin import Admin
from exp.study.backends import emulated
from exp.study.backends.sending import send_case
from exp.study.case import Fleet, UnitGroup, WorkloadSpec
from exp.study.records import RequestRecord
from exp.twin.__main__ import AGAINST, BEYOND_LIMITS, UNUSABLE, main
from exp.twin.errors import ValidationImpossible
from exp.twin.run import run_case
from exp.twin.units import UnitSpec, unit_specs
from exp.twin.validation import against_emulated, against_vidur
from exp.twin.validation.comparison import MEAN, PERCENTILES, Comparison, Row, Say, table
from exp.twin.validation.measured_units import fit_steps, measured_units
from exp.twin.validation.network import fitted_network_ms, with_network
from exp.twin.validation.step_watch import watched
from predictor.simulator.kernel.step_cost import mixed_step_s
from predictor.step_time.base import BatchShape
from predictor.step_time.records import record_shape
from tests.predictor.engines import MODEL
from tests.predictor.engines import limits as engine_limits
from wire.snapshot import StepRecord

SMALL = against_vidur.case_of(seed=3, num_requests=60)


def record(ttft_ms: float | None, e2e_ms: float | None) -> RequestRecord:
    """An answered request, or one that was not."""
    return RequestRecord(
        request_id="r",
        at_s=0.0,
        request_class="short",
        outcome="ok" if e2e_ms is not None else "failed",
        num_prompt_tokens=10,
        ttft_ms=ttft_ms,
        e2e_ms=e2e_ms,
    )


def test_the_twin_equals_stock_vidurs_cluster_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mean E2E latency within 2 %, as asked for on the command line."""
    kept = tmp_path / "validation.json"
    options = ["--against", "vidur", "--seeds", "1", "--requests", "120", "--json", str(kept)]
    assert main(["validate", *options]) == 0
    (comparison,) = json.loads(kept.read_bytes())["comparisons"]
    answered, e2e = comparison["rows"]
    assert answered["theirs"] == answered["twins"] == 120
    assert abs(e2e["difference"]) <= 0.02
    printed = capsys.readouterr()
    assert "stock Vidur  E2E mean, ms" in printed.out
    assert "seed 1: 120 requests" in printed.err


def test_a_slower_twin_is_found_out() -> None:
    """Medians 11 % and tails 25 % off are beyond their limits, smaller differences are not."""
    theirs = [record(100.0 + step, 1_000.0 + 10 * step) for step in range(100)]

    def verdicts(factor: float) -> list[bool]:
        twins = [record((one.ttft_ms or 0) * factor, (one.e2e_ms or 0) * factor) for one in theirs]
        compared = Comparison(
            name="x", quantities=(*PERCENTILES, *MEAN), theirs=[theirs], twins=[twins]
        )
        return [row.is_within for row in compared.rows()]

    assert verdicts(1.01) == [True] * 6
    assert verdicts(1.11) == [True, False, True, False, True, False]
    assert verdicts(0.75) == [True, False, False, False, False, False]


def test_unanswered_requests_are_a_difference() -> None:
    """Latencies of those that were answered do not make up for the others, nor for none at all."""
    compared = Comparison(
        name="x",
        quantities=MEAN,
        theirs=[[record(1.0, 2.0), record(1.0, 2.0)]],
        twins=[[record(1.0, 2.0), record(None, None)]],
    )
    assert [row.is_within for row in compared.rows()] == [False, True]
    nothing = Comparison(
        name="x", quantities=MEAN, theirs=compared.theirs, twins=[[record(None, None)] * 2]
    )
    assert [row.is_within for row in nothing.rows()] == [False, False]


def test_the_table_shows_each_figure() -> None:
    """With its difference and whether that is within the limit."""
    row = Row(comparison="x", quantity="TTFT p50, ms", theirs=1_000.0, twins=1_234.56, limit=0.1)
    head, line = table([row]).splitlines()
    assert head.split() == [
        "comparison", "quantity", "theirs", "twin's", "difference", "limit", "within"
    ]  # fmt: skip
    assert line.split() == ["x", "TTFT", "p50,", "ms", "1,000", "1,234.6", "+23.5%", "10%", "NO"]


@pytest.mark.parametrize("system", ["round_robin", "min_new_request_latency"])
def test_the_time_of_messages_is_found_from_ttfts(system: str) -> None:
    """However many messages a policy needs."""
    case = msgspec.structs.replace(SMALL, rate_per_s=2.0, gateway={"policy": system})
    theirs = run_case(with_network(case, 3.0))
    assert fitted_network_ms(case, theirs) == pytest.approx(3.0, abs=0.1)
    assert fitted_network_ms(case, run_case(with_network(case, 0.0))) == pytest.approx(0.0)


def steps(count: int) -> list[StepRecord]:
    """Of an engine with 30 ms a step, 1 ms a token and 10 % noise, which stalls now and then."""
    rng = random.Random(1)
    found = []
    for number in range(count):
        prefill, decodes = rng.choice((0, 0, 0, 50, 200)), rng.randint(1, 8)
        duration_s = (0.03 + 0.001 * (prefill + decodes)) * rng.gauss(1.0, 0.1)
        found.append(
            StepRecord(
                step=number,
                started_at=float(number),
                duration_s=duration_s if rng.random() < 0.99 else 5.0,
                num_prefill_tokens=prefill,
                num_prefill_seqs=int(prefill > 0),
                num_decode_tokens=decodes,
                num_decode_seqs=decodes,
            )
        )
    return found


def test_step_times_and_their_noise_are_those_of_the_engine() -> None:
    """In spite of stalls, which are counted apart."""
    fit = fit_steps(steps(2_000))
    for prefill, decodes in ((0, 1), (0, 8), (200, 4)):
        shape = BatchShape(
            num_prefill_tokens=prefill,
            num_prefill_seqs=int(prefill > 0),
            num_decode_tokens=decodes,
            num_decode_seqs=decodes,
        )
        assert fit.step_s(shape) == pytest.approx(0.03 + 0.001 * (prefill + decodes), rel=0.03)
    halves = {"unit-1": steps(2_000)[:1_000], "unit-2": steps(2_000)[1_000:]}
    units = measured_units(MODEL, dict.fromkeys(halves, engine_limits()), halves)
    assert [spec.name for spec in units.specs] == ["unit-1", "unit-2"]
    assert 0.08 <= units.noise <= 0.16
    assert 0.3 <= units.stalled_share <= 0.4
    without = [one for one in steps(2_000) if one.duration_s < 5.0]
    assert units.slowdown({"unit-1": without}) == pytest.approx(1.0, abs=0.03)
    assert fit.step_s(record_shape(without[0])) > 0


def test_units_are_measured_while_they_serve(tmp_path: Path) -> None:
    """Step times learnt from running engines are those that the engines have."""
    case = msgspec.structs.replace(
        against_emulated.case_of("round_robin", seed=1, num_requests=60),
        fleet=Fleet(groups=(UnitGroup(gpu="A30", count=2),)),
        workload=WorkloadSpec(
            source="synthetic", num_requests=60, prompt_tokens="32-256", output_tokens="16-64"
        ),
        rate_per_s=15.0,
    )
    plan = emulated.plan_of(case, tmp_path)
    with temporary_fleet(plan, SilentDisplay()) as url, watched(plan) as watch:
        records = send_case(case, Admin(url), is_emulated=True)
    assert [one.outcome for one in records] == ["ok"] * 60
    (truth, _), units = unit_specs(case), measured_units(MODEL, watch.limits, watch.steps)
    assert [spec.name for spec in units.specs] == ["unit-01", "unit-02"]
    assert units.specs[0].limits.max_num_seqs == truth.limits.max_num_seqs
    assert units.noise == pytest.approx(EMULATED_NOISE, rel=0.5)
    for tokens in (0, 100, 200):
        assert step_s(units.specs[0], tokens) == pytest.approx(step_s(truth, tokens), rel=0.1)


def step_s(spec: UnitSpec, num_tokens: int) -> float:
    """Of four sequences that decode while a prompt is prefilled, as such engines often have it."""
    table, attention = spec.table, num_tokens**2 / 2
    return mixed_step_s(table, 4, 4 * 180, int(num_tokens > 0), num_tokens, 0, attention, 0.0)


def test_too_few_steps_teach_nothing() -> None:
    """The message says how many there were."""
    with pytest.raises(ValidationImpossible, match=r"published 10 steps; at least 200"):
        measured_units(MODEL, {"unit-1": engine_limits()}, {"unit-1": steps(10)})


@pytest.mark.parametrize("system", ["round_robin", "astrolabe"])
def test_the_emulated_fleet_is_the_twins(system: str, tmp_path: Path) -> None:
    """The case that is judged can be started, with the noise that the twin plays."""
    case = against_emulated.case_of(system, seed=1, num_requests=10)
    plan = emulated.plan_of(case, tmp_path)
    engines = [part.command for part in plan.parts if part.role == "engine"]
    noises = {engine[engine.index("--noise") + 1] for engine in engines}
    assert noises == {str(case.twin.step_noise)}
    assert [one.outcome for one in run_case(case)] == ["ok"] * 10


def test_a_case_can_be_played_from_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures as JSON on stdout, the requests in a file; a GPU that is unknown is told."""
    file, requests = tmp_path / "case.json", tmp_path / "requests.parquet"
    file.write_bytes(msgspec.json.encode(SMALL))
    assert main(["run", str(file), "--requests", str(requests)]) == 0
    assert json.loads(capsys.readouterr().out)["all.answered_share"] == 1.0
    assert requests.stat().st_size > 0
    unknown = Fleet(groups=(UnitGroup(gpu="A31", count=1),))
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(SMALL, fleet=unknown)))
    assert main(["run", str(file)]) == UNUSABLE
    assert "unknown GPU 'A31'" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "none.json")]) == UNUSABLE


def test_a_difference_beyond_a_limit_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless only a report is asked for. What cannot be compared keeps nothing else from it."""
    fleets = [run_case(SMALL), run_case(with_network(SMALL, 1_000.0))]

    def compare(seeds: Sequence[int], num_requests: int | None, say: Say) -> list[Comparison]:
        return [Comparison(name="x", quantities=MEAN, theirs=fleets[:1], twins=fleets[1:])]

    def fail(seeds: Sequence[int], num_requests: int | None, say: Say) -> list[Comparison]:
        raise ValidationImpossible("not there")

    monkeypatch.setitem(AGAINST, "vidur", compare)
    monkeypatch.setitem(AGAINST, "emulated", fail)
    monkeypatch.setitem(AGAINST, "vllm", compare)
    assert main(["validate", "--against", "vidur"]) == BEYOND_LIMITS
    assert main(["validate", "--against", "vidur", "--report-only"]) == 0
    assert main(["validate", "--report-only"]) == UNUSABLE
