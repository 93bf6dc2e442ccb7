"""Studies of what one property of the system or of the load does."""

from __future__ import annotations

import msgspec

from exp.study.case import Arrivals, LengthBelief, TwinOptions
from exp.study.plan import Scenario, Study
from exp.study.scenarios import GOALS, LLAMA_7B, SHAREGPT, equal_fleet, fleet
from exp.study.systems import OURS, systems, variant

LENGTH_ERRORS = (0.0, 0.25, 0.5, 1.0)
STEP_ERRORS = (0.0, 0.1, 0.2, 0.4)
EQUAL = Scenario(
    name="equal",
    label="12 A30, ShareGPT",
    fleet=equal_fleet(),
    workload=SHAREGPT,
    goals=GOALS,
)


def po2() -> Study:
    """How many sidecars to ask for each request."""
    return Study(
        name="po2",
        title="Power of k: sidecars asked for each request",
        repeats="Astrolabe, section 5.4",
        scenarios=(
            msgspec.structs.replace(
                EQUAL, rates_per_s=(16.0, 22.0, 26.0, 29.0, 31.0), capacity_near_per_s=30.0
            ),
        ),
        systems=tuple(
            variant(OURS, name, label, {"num_query_predictors": asked}, k=k)
            for name, label, asked, k in (
                ("k1", "k = 1", "1", 1),
                ("k2", "k = 2", "2", 2),
                ("k4", "k = 4", "4", 4),
                ("all", "all 12", "0", 12),
            )
        ),
        baseline="all",
        plots=("po2_plot",),
    )


def burstiness() -> Study:
    """Gamma-distributed gaps, from bursts to regular ones."""
    shapes = (0.1, 0.25, 0.5, 1.0, 2.0)
    return Study(
        name="burstiness",
        title="Requests that come in bursts",
        repeats="Astrolabe, section 5.4",
        scenarios=tuple(
            msgspec.structs.replace(
                EQUAL,
                name=f"burstiness_{shape:g}",
                label=f"burstiness {shape:g}",
                workload=msgspec.structs.replace(
                    SHAREGPT, arrivals=Arrivals(kind="gamma", burstiness=shape)
                ),
                rates_per_s=(20.0, 26.0),
                variables={"burstiness": shape},
            )
            for shape in shapes
        ),
        systems=systems(("round_robin", "token_load", "llumnix_minus", "block", OURS)),
        plots=("burstiness_plot",),
    )


def prediction_error() -> Study:
    """Errors in lengths times errors in step times, with sidecars that do not learn."""
    return Study(
        name="prediction_error",
        title="Errors of predicted lengths and of step times",
        repeats="Astrolabe, section 5.4",
        scenarios=tuple(
            msgspec.structs.replace(
                EQUAL,
                name=f"length_{length:g}_step_{step:g}",
                label=f"length error {length:g}, step time error {step:g}",
                rates_per_s=(28.0,),
                # Without an error there is nothing to be uncertain of.
                lengths=LengthBelief(kind="quantiles" if length else "oracle", error=length),
                twin=TwinOptions(step_error=step, is_calibrated=False),
                variables={"length_error": length, "step_error": step},
            )
            for length in LENGTH_ERRORS
            for step in STEP_ERRORS
        ),
        systems=systems(("block", OURS)),
        plots=("prediction_error_plot",),
    )


def cpu() -> Study:
    """What deciding costs."""
    return Study(
        name="cpu",
        title="CPU time of gateway and sidecars",
        repeats="Astrolabe, section 5.4",
        scenarios=(
            msgspec.structs.replace(EQUAL, rates_per_s=(5.0, 10.0, 15.0, 20.0, 25.0, 30.0)),
        ),
        systems=(
            *systems(("round_robin", "llumnix_minus", "block", OURS)),
            variant(OURS, "astrolabe_k2", "{system}, k = 2", {"num_query_predictors": "2"}, k=2),
        ),
        plots=("cpu_overhead_plot",),
    )


def auto_provision() -> Study:
    """Load that rises and falls over ten minutes, and units that could be started for it."""
    return Study(
        name="auto_provision",
        title="Units that are started when needed",
        repeats="Astrolabe, section 5.5",
        scenarios=(
            Scenario(
                name="rising",
                label="6 A30 and 6 in standby, load between 8 and 24 requests/s",
                fleet=fleet(("A30", 12), model=LLAMA_7B, num_standby=6),
                workload=msgspec.structs.replace(
                    SHAREGPT,
                    num_requests=9_600,
                    arrivals=Arrivals(kind="diurnal", period_s=300.0, depth=0.5),
                ),
                rates_per_s=(16.0,),
                goals=GOALS,
            ),
        ),
        systems=(
            variant(OURS, "fixed_6", "6 units", {"max_units": "6"}, units=6),
            variant(OURS, "reactive", "reactive", {"provisioning": "reactive"}),
            variant(OURS, "preemptive", "preemptive", {"provisioning": "preemptive"}),
            variant(OURS, "fixed_12", "12 units", {"min_units": "12"}, units=12),
        ),
        plots=("provision_plot",),
    )
