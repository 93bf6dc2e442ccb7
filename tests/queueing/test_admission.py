"""Which units may take a request with goals, and what happens if none can meet them."""

from __future__ import annotations

import pytest

from global_scheduler.admission import AdmissionRules, Forecast, admit, headroom
from tests.queueing.requests import request

FAST = Forecast("fast", 0.2, 0.02)
SLOW = Forecast("slow", 0.8, 0.02)
RULES = AdmissionRules()


def test_only_units_that_meet_the_goals() -> None:
    """For the first token and for those after it; what was waited counts."""
    asked = request("a", 0.0, ttft_goal_s=1.0, tpot_goal_s=0.03)
    assert admit(asked, [FAST, SLOW], RULES, 0.0).units == ("fast", "slow")
    assert admit(asked, [FAST, SLOW], RULES, 0.5).units == ("fast",)
    slow_decode = Forecast("slow", 0.1, 0.04)
    assert admit(asked, [FAST, slow_decode], RULES, 0.0).units == ("fast",)


@pytest.mark.parametrize(("choice", "unit"), [("least", "slow"), ("most", "fast")])
def test_headroom(choice: str, unit: str) -> None:
    """The tightest fit keeps other units free; the widest is the safest."""
    asked = request("a", 0.0, ttft_goal_s=1.0)
    rules = AdmissionRules(headroom=choice)  # type: ignore[arg-type]
    assert admit(asked, [FAST, SLOW], rules, 0.0).units == (unit,)
    assert headroom(asked, SLOW, 0.0) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("miss", "importance", "verdict"),
    [
        ("shed", -1, "shed"),
        ("shed", 0, "send"),
        ("best_effort", -1, "send"),
        ("wait", 0, "wait"),
    ],
)
def test_when_none_can(miss: str, importance: int, verdict: str) -> None:
    """By default only what is less important than usual is refused."""
    asked = request("a", 0.0, ttft_goal_s=0.1, importance=importance)
    found = admit(asked, [FAST, SLOW], AdmissionRules(miss=miss), 0.0)  # type: ignore[arg-type]
    assert (found.verdict, found.meets_goals) == (verdict, False)


def test_waiting_ends_with_the_goal() -> None:
    """Once it cannot be met any more, or if it is one that no wait will help, the request goes."""
    rules = AdmissionRules(miss="wait")
    late = request("a", 0.0, ttft_goal_s=0.1)
    assert admit(late, [SLOW], rules, 0.05).verdict == "wait"
    assert admit(late, [SLOW], rules, 0.1).verdict == "send"
    decode = request("b", 0.0, tpot_goal_s=0.001)
    assert admit(decode, [SLOW], rules, 0.0).verdict == "send"


def test_without_goals_or_forecasts_it_is_sent() -> None:
    """To any unit, one whose sidecar does not answer among them: the policy decides."""
    assert admit(request("a"), [FAST, SLOW], RULES, 0.0).units == ()
    assert admit(request("a", ttft_goal_s=0.1), [], RULES, 0.0).verdict == "send"


@pytest.mark.parametrize("miss", ["shed", "wait"])
def test_a_unit_without_a_forecast_might_meet_the_goals(miss: str) -> None:
    """As long as there is one nobody is refused or held back; units that do are taken first."""
    rules = AdmissionRules(miss=miss)  # type: ignore[arg-type]
    hopeless = request("a", 0.0, ttft_goal_s=0.1, importance=-1)
    assert admit(hopeless, [SLOW], rules, 0.0).verdict == miss
    assert admit(hopeless, [SLOW], rules, 0.0, num_unknown=1).verdict == "send"
    easy = request("b", 0.0, ttft_goal_s=1.0)
    assert admit(easy, [FAST], rules, 0.0, num_unknown=1).units == ("fast",)
