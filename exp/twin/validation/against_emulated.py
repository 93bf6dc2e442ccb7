"""The twin against emulated engines behind the real gateway and real sidecars, in real time.

Both know the engines' step times, and draw their noise from the same distribution. How long
messages take is measured before, with another seed, for each scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence

from exp.fleet.local import EMULATED_NOISE
from exp.study.backends import emulated
from exp.study.case import Case, Fleet, LengthBelief, TwinOptions, UnitGroup, WorkloadSpec
from exp.study.systems import SYSTEMS
from exp.twin.run import run_case
from exp.twin.validation.comparison import PERCENTILES, Comparison, Say
from exp.twin.validation.network import fitted_network_ms, with_network

NUM_REQUESTS = 250
UNJUDGED_SHARE = 1 / 3
"""Of as many requests as a judged run has."""
UNJUDGED_SEED = 1_000_003
_RATE_PER_S = 2.5
"""A third of what round robin can bear here; Astrolabe holds no more than 8 requests on a unit."""
_COMPARED = ("round_robin", "astrolabe")


def compare(seeds: Sequence[int], num_requests: int | None, say: Say) -> list[Comparison]:
    """Run each seed's trace on both, with a scheduler that asks no sidecar and with one that does.

    Raises:
        FleetError: the fleet does not start.
        WorkloadError, OSError: the workload cannot be built, or the gateway does not answer.
    """
    return [_compare(name, seeds, num_requests or NUM_REQUESTS, say) for name in _COMPARED]


def _compare(system: str, seeds: Sequence[int], num_requests: int, say: Say) -> Comparison:
    compared = Comparison(name=f"emulated, {system}", quantities=PERCENTILES)
    unjudged = case_of(system, UNJUDGED_SEED, max(10, round(num_requests * UNJUDGED_SHARE)))
    say(f"{compared.name}, to measure messages: {_about(unjudged)}")
    network_ms = fitted_network_ms(unjudged, emulated.run_case(unjudged))
    compared.notes["network_ms"] = network_ms
    for seed in seeds:
        case = case_of(system, seed, num_requests)
        say(f"{compared.name}, seed {seed}: {_about(case)}")
        compared.theirs.append(emulated.run_case(case))
        compared.twins.append(run_case(with_network(case, network_ms)))
    return compared


def case_of(system: str, seed: int, num_requests: int) -> Case:
    """Two slow units and a fast one."""
    return Case(
        scenario="unequal units",
        system=system,
        gateway=SYSTEMS[system].gateway,
        fleet=Fleet(groups=(UnitGroup(gpu="A30", count=2), UnitGroup(gpu="A100-80G", count=1))),
        workload=WorkloadSpec(source="sharegpt", num_requests=num_requests, max_model_len=2_048),
        rate_per_s=_RATE_PER_S,
        seed=seed,
        lengths=LengthBelief(kind="running_mean"),
        twin=TwinOptions(step_noise=EMULATED_NOISE, step_error=0.0),
    )


def _about(case: Case) -> str:
    num_requests = case.workload.num_requests
    return f"{num_requests} requests, about {num_requests / case.rate_per_s + 30:.0f} s"
