"""The twin against stock Vidur's simulation of a cluster.

Vidur's Sarathi scheduler reserves whole prompts, runs decodes first and knows no prefix cache, so
that batches are vLLM's as long as KV memory is ample: units get as many blocks as they could ever
need. Both have the same tables of step times, no noise and no network.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from exp.study.case import Case, Fleet, LengthBelief, TwinOptions, UnitGroup, WorkloadSpec
from exp.study.records import RequestRecord
from exp.study.systems import SYSTEMS
from exp.twin.errors import ValidationImpossible
from exp.twin.run import run_case
from exp.twin.units import PROJECT, UnitSpec, unit_specs
from exp.twin.validation.comparison import MEAN, Comparison, Say
from exp.twin.validation.vidur_question import ANSWERS, QUESTION, Latencies, Question
from exp.workloads.build import build_workload
from exp.workloads.request import WorkloadRequest
from predictor.step_time.gpus import find_gpu
from predictor.step_time.vidur_step_time import VidurStepTime
from predictor.step_time.vidur_tables import RooflineTimes

NAME = "stock Vidur"
NUM_REQUESTS = 2_000
TIMEOUT_S = 900.0
_RATE_PER_S = 9.0
"""Of 4 units that can do about 10 requests of ShareGPT per second."""


def compare(seeds: Sequence[int], num_requests: int | None, say: Say) -> list[Comparison]:
    """Play each seed's trace on both.

    Raises:
        ValidationImpossible: Vidur is not installed, or failed.
    """
    if importlib.util.find_spec("vidur") is None:
        raise ValidationImpossible("Vidur is not installed: pip install 'astrolabe-llm[vidur]'")
    compared = Comparison(name=NAME, quantities=MEAN)
    for seed in seeds:
        case = case_of(seed, num_requests or NUM_REQUESTS)
        say(f"{NAME}, seed {seed}: {case.workload.num_requests} requests")
        requests = build_workload(case.workload, case.rate_per_s, seed)
        specs = [_with_vidurs_tables(spec, case) for spec in unit_specs(case)]
        compared.theirs.append(play_vidur(case, requests, specs))
        compared.twins.append(run_case(case, requests, specs))
    return [compared]


def case_of(seed: int, num_requests: int) -> Case:
    """Equal units, requests to each in turn."""
    system = SYSTEMS["round_robin"]
    return Case(
        scenario="equal units",
        system=system.name,
        gateway=system.gateway,
        fleet=Fleet(groups=(UnitGroup(gpu="A30", count=4),), prefix_caching=False),
        workload=WorkloadSpec(source="sharegpt", num_requests=num_requests),
        rate_per_s=_RATE_PER_S,
        seed=seed,
        lengths=LengthBelief(kind="running_mean"),
        twin=TwinOptions(step_noise=0.0, step_error=0.0, network_ms=0.0),
    )


def play_vidur(
    case: Case, requests: Sequence[WorkloadRequest], specs: Sequence[UnitSpec]
) -> list[RequestRecord]:
    """What stock Vidur makes of a case with equal units.

    Raises:
        ValidationImpossible: it failed.
    """
    question = Question(
        model_config=str(PROJECT / case.fleet.model_config),
        gpu=case.fleet.groups[0].gpu,
        num_units=len(specs),
        limits=specs[0].limits,
        requests=[(one.at_s, one.num_prompt_tokens, one.num_output_tokens) for one in requests],
    )
    with tempfile.TemporaryDirectory(prefix="astrolabe-vidur-") as folder:
        (Path(folder) / QUESTION).write_bytes(msgspec.json.encode(question))
        _run(folder)
        content = (Path(folder) / ANSWERS).read_bytes()
    answers = msgspec.json.decode(content, type=list[Latencies])
    return [_record(*pair) for pair in zip(requests, answers, strict=True)]


def _run(folder: str) -> None:
    command = [sys.executable, "-m", "exp.twin.validation.vidur_cluster", folder]
    try:
        ended = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValidationImpossible(f"stock Vidur took more than {TIMEOUT_S:g} s") from error
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
        raise ValidationImpossible(f"stock Vidur failed: {last[0]}")


def _record(request: WorkloadRequest, met: Latencies) -> RequestRecord:
    return RequestRecord(
        request_id=request.request_id,
        at_s=request.at_s,
        request_class=request.request_class,
        outcome="ok",
        num_prompt_tokens=request.num_prompt_tokens,
        num_output_tokens=request.num_output_tokens,
        ttft_ms=met.ttft_ms,
        e2e_ms=met.e2e_ms,
        num_preemptions=met.num_restarts,
    )


def _with_vidurs_tables(spec: UnitSpec, case: Case) -> UnitSpec:
    model, limits = spec.model, spec.limits
    gpu = find_gpu(case.fleet.groups[0].gpu)
    table = VidurStepTime(RooflineTimes(model, gpu), model, gpu).tabulate(
        limits.max_num_batched_tokens, limits.max_num_seqs
    )
    most = limits.max_num_seqs * -(-limits.max_model_len // limits.block_size)
    ample = msgspec.structs.replace(limits, num_gpu_blocks=most)
    return replace(spec, limits=ample, table=table, believed_table=table)
