"""Baselines are what their sources say, on fleets of the size that they are said for."""

from __future__ import annotations

import pytest

from exp.study.comparisons import hetero, main, pools
from exp.study.plan import Study
from exp.study.systems import scaled_adasplit
from global_scheduler.pools.qhap import QhapLimits


def test_scaled_to_its_own_fleet_adasplit_keeps_its_numbers() -> None:
    """Four units; the long one that stays is the only addition."""
    gateway, limits = scaled_adasplit(4).gateway, QhapLimits()
    assert gateway["qhap_scale_up_above"] == str(limits.scale_up_above)
    assert gateway["qhap_scale_down_below"] == str(limits.scale_down_below)
    assert gateway["qhap_min_short"] == str(limits.min_short)
    assert float(gateway["qhap_cooldown_s"]) == limits.cooldown_s
    assert gateway["qhap_min_long"] == "1"


def test_three_times_the_units_have_three_times_the_queue() -> None:
    """And may move three times as often, as each move is a third of the fleet's share."""
    gateway = scaled_adasplit(12).gateway
    assert (gateway["qhap_scale_up_above"], gateway["qhap_scale_down_below"]) == ("30", "6")
    assert gateway["qhap_min_short"] == "3"
    assert float(gateway["qhap_cooldown_s"]) == pytest.approx(5 / 3, abs=0.01)


@pytest.mark.parametrize("study", [main(), pools(), hetero()], ids=lambda study: study.name)
def test_studies_scale_adasplit_to_their_fleets(study: Study) -> None:
    """Wherever it takes part, next to AdaSplit as it is."""
    taking_part = [one for one, system in study.pairs() if system.name == "adasplit_scaled"]
    assert taking_part
    assert {"adasplit", "adasplit_scaled"} <= {system.name for system in study.systems}
    for scenario in taking_part:
        num_units = sum(group.count for group in scenario.fleet.groups)
        assert scaled_adasplit(num_units) in study.systems
