"""Units, how they are given, and when they are candidates."""

import random

import pytest
from pydantic_settings import CliApp

from global_scheduler.errors import BadRequest, Conflict, NotFound
from global_scheduler.ledger import InFlight, Ledger
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import Unit, UnitRegistry, new_unit, parse_unit
from tests.global_scheduler.fleet import prediction

CARDS = {"m": {"id": "m"}}


def test_a_unit_is_parsed_with_and_without_a_sidecar() -> None:
    """NAME=ENGINE_URL[,PREDICTOR_URL]."""
    unit = parse_unit("a=http://h:8001/,http://h:8101")
    assert (unit.name, unit.engine_url, unit.predictor_url) == (
        "a",
        "http://h:8001",
        "http://h:8101",
    )
    assert parse_unit("a=https://h").predictor_url is None
    assert parse_unit("a@12=https://h").concurrency_limit == 12
    assert parse_unit("_A-1.b=http://café.example/").engine_url == "http://café.example"
    assert parse_unit(f"{'a' * 64}=http://h").name == "a" * 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a=",
        "=http://h",
        "a=ftp://h",
        "a=http://",
        "a b=http://h",
        "été=http://h",
        "a٣=http://h",
        "-._=http://h",
        f"{'a' * 65}=http://h",
        "a=http://h\ud800",
        "a=http://h/\udcff",
        "a=http://h h",
        "a=http://h\r\nx: y",
        "a=http://h,http://h\ud800",
        "a@=http://h",
        "a@0=http://h",
    ],
)
def test_a_unit_that_cannot_be_parsed_is_quoted(text: str) -> None:
    """The message holds what was given."""
    with pytest.raises(BadRequest, match="must"):
        parse_unit(text)


def test_units_come_from_flags_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas separate units, but not an engine from its sidecar."""
    text = "a=http://h:1,http://h:2,b=http://h:3"
    expected = ["a=http://h:1,http://h:2", "b=http://h:3"]
    monkeypatch.setenv("ASTROLABE_GATEWAY_UNIT", text)
    assert GatewaySettings().unit == expected
    arguments = ["--unit", expected[0], "--unit", expected[1]]
    given = CliApp.run(GatewaySettings, cli_args=arguments)
    assert given.unit == expected


def test_a_unit_leaves_after_two_failures_and_comes_back_by_itself() -> None:
    """One lost health check is not a dead unit."""
    unit = new_unit("a", "http://h", None)
    registry = UnitRegistry([unit])
    assert registry.eligible("m") == []
    unit.check_passed(CARDS)
    unit.check_failed("slow")
    assert registry.eligible("m") == [unit]
    unit.check_failed("slow")
    assert registry.eligible("m") == []
    unit.check_passed(CARDS)
    assert registry.eligible("m") == [unit]
    unit.refused("connection refused")
    assert registry.eligible(None) == []


def test_names_are_unique_and_unknown_names_are_told() -> None:
    """The registry does not overwrite."""
    registry = UnitRegistry([new_unit("a", "http://h", None)])
    with pytest.raises(Conflict, match="'a'"):
        registry.add(new_unit("a", "http://h", None))
    with pytest.raises(NotFound, match="'b'"):
        registry.get("b")


def _entry(request_id: str, sent_at_s: float, ttft_ms: float = 40.0) -> InFlight:
    answer = prediction(queue_ms=10.0, ttft_ms=ttft_ms)
    return InFlight(request_id, "a", 100, 50.0, 0, sent_at_s, answer)


def test_an_answer_is_corrected_for_what_was_sent_since_it_was_asked() -> None:
    """The prefill of each later request and the time gone by; what it knew of is not added."""
    ledger, unit = Ledger(lambda: 5.0), Unit("a", "http://h")
    ledger.sent(unit, _entry("before", 1.0))
    ledger.sent(unit, _entry("after", 3.0))
    answer = prediction(ttft_ms=100.0, ttft_p90_ms=120.0, e2e_ms=900.0)
    corrected = ledger.correct(answer, unit, asked_at_s=2.99)
    assert corrected.ttft_ms == pytest.approx(100.0 + 2010.0 + 30.0)
    assert corrected.ttft_p90_ms == pytest.approx(120.0 + 2010.0 + 30.0)
    assert corrected.e2e_ms == pytest.approx(900.0 + 2010.0 + 30.0)
    assert corrected.num_waiting == 1
    assert corrected.num_unprocessed_tokens == 150
    assert [s.sent_age_ms for s in ledger.sent_list(unit)].count(4000.0) == 1


def test_the_ledger_counts_back_to_zero() -> None:
    """Whatever the order of ends, nothing is left behind."""
    ledger, unit = Ledger(lambda: 0.0), Unit("a", "http://h")
    names = [f"r{index}" for index in range(50)]
    for name in names:
        ledger.sent(unit, _entry(name, 0.0))
    random.Random(1).shuffle(names)
    for name in names:
        ledger.ended(unit, name)
    assert (len(ledger), unit.outstanding, unit.num_outstanding_tokens) == (0, set(), 0.0)
