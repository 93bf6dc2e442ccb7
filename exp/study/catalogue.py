"""All studies by name, each built for the options that it is run with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from exp.study import ablations, comparisons
from exp.study.errors import PlanError
from exp.study.plan import Study
from exp.study.scenarios import shortened

QUICK_SEEDS = 2
QUICK_STEP = 1.1
Traces = Mapping[str, str]
"""Files of public traces, by the name of their source."""
STUDIES: Mapping[str, Callable[[Traces], Study]] = {
    "main": lambda traces: comparisons.main(),
    "llumnix": lambda traces: comparisons.llumnix(),
    "pools": lambda traces: comparisons.pools(),
    "hetero": lambda traces: comparisons.hetero(),
    "multi_turn": lambda traces: comparisons.multi_turn(),
    "slo": lambda traces: comparisons.slo(),
    "po2": lambda traces: ablations.po2(),
    "burstiness": lambda traces: ablations.burstiness(),
    "prediction_error": lambda traces: ablations.prediction_error(),
    "cpu": lambda traces: ablations.cpu(),
    "auto_provision": lambda traces: ablations.auto_provision(),
    "extension": comparisons.extension,
}


def build_study(name: str, traces: Traces, *, is_quick: bool) -> Study:
    """One study, as it is or in short.

    Raises:
        PlanError: there is none of that name.
    """
    if name not in STUDIES:
        raise PlanError(f"unknown study {name!r}; known are {', '.join(STUDIES)}")
    study = STUDIES[name](traces)
    if not is_quick:
        return study
    return msgspec.structs.replace(
        study,
        scenarios=shortened(study.scenarios),
        num_seeds=QUICK_SEEDS,
        # Short traces are over before a queue is long enough to miss a loose limit.
        capacity_ttft_s=study.capacity_ttft_s[:1],
        capacity_step=QUICK_STEP,
    )
