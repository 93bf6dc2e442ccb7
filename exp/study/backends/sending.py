"""A case's requests sent to a gateway, and what came of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from exp.gateway_admin import Admin
from exp.study.case import Case
from exp.study.errors import CaseError
from exp.study.records import RequestRecord
from exp.workloads.build import build_workload
from exp.workloads.replay import Goals, Target, send_all, served_model
from exp.workloads.summary import as_record
from exp.workloads.trace import TracedRequest, traced


def requests_of(case: Case, *, is_emulated: bool) -> list[TracedRequest]:
    """What is sent, each with an answer exactly as long as the workload has it.

    Texts are sent where the gateway should estimate lengths by them, else token ids; those that the
    workload's block hashes stand for, so that prefix caches find what they should.

    Raises:
        WorkloadError: the workload cannot be built.
    """
    as_text = case.lengths.kind == "quantiles"
    return [
        _with_goals(
            traced(one, case.workload.max_model_len, as_text=as_text, is_emulated=is_emulated), case
        )
        for one in build_workload(case.workload, case.rate_per_s, case.seed)
    ]


def _with_goals(request: TracedRequest, case: Case) -> TracedRequest:
    goals = case.goals_of(request.request_class)
    if not goals.are_sent:
        return request
    return msgspec.structs.replace(request, slo_ttft_ms=goals.ttft_ms, slo_tpot_ms=goals.tpot_ms)


def refuse_what_only_the_twin_can(case: Case) -> None:
    """Before anything is started.

    Raises:
        CaseError: names the option and its value.
    """
    refused = {
        "lengths.kind": case.lengths.kind if case.lengths.kind in ("oracle", "noisy") else None,
        "twin.migration": case.twin.migration if case.twin.migration != "none" else None,
        "twin.failures": len(case.twin.failures) or None,
    }
    for name, value in refused.items():
        if value is not None:
            raise CaseError(f"{name} {value}: only the twin can do that")


def send_case(
    case: Case, admin: Admin, *, is_emulated: bool, api_key: str | None = None
) -> list[RequestRecord]:
    """Send all requests at their times and wait until the last one has ended.

    Raises:
        WorkloadError: the workload cannot be built, or the gateway serves no model.
        OSError: the admin API does not answer.
    """
    requests = requests_of(case, is_emulated=is_emulated)
    records = asyncio.run(_send(case, requests, admin.url, api_key))
    _add_decisions(records, admin.get("/admin/decisions"))
    return records


async def _send(
    case: Case, requests: Sequence[TracedRequest], url: str, api_key: str | None
) -> list[RequestRecord]:
    target = Target(
        base_url=url,
        model=await served_model(url, api_key),
        api_key=api_key,
        are_chats=False,  # base models have no template for chats, and lengths stay exact
        goals={
            name: Goals(ttft_ms=goals.ttft_ms, tpot_ms=goals.tpot_ms)
            for name, goals in case.goals.items()
        },
    )
    sent = await send_all(requests, target, f"{case.key}-{uuid.uuid4().hex[:4]}")
    return [as_record(one) for one in sent]


def _add_decisions(records: Sequence[RequestRecord], decisions: Sequence[dict[str, Any]]) -> None:
    """What only the gateway's log of the last thousand decisions tells."""
    by_id = {one["request_id"]: one for one in decisions}
    for record in records:
        decision = by_id.get(record.request_id)
        if decision is not None:
            record.decision_ms = decision["decision_ms"]
            record.is_stolen = decision["is_stolen"]
