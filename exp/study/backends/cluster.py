"""Runs on a cluster that is up: its gateway is told to be the case's system, then gets the load.

The admin token and an API key are taken from ``ASTROLABE_GATEWAY_ADMIN_TOKEN`` and
``ASTROLABE_API_KEY``. Sidecars keep what they have learnt from one run to the next, and engines
what they have cached; but token ids are new in each run, so that only texts can be found there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from exp.fleet.plan import gateway_flags
from exp.gateway_admin import Admin
from exp.study.backends.sending import refuse_what_only_the_twin_can, send_case
from exp.study.case import Case
from exp.study.errors import CaseError
from exp.study.records import RequestRecord
from global_scheduler.admin import RoutingIn
from global_scheduler.admin_pools import PoolsIn
from global_scheduler.settings import GatewaySettings

SWITCHES: Mapping[str, type[BaseModel]] = {"/admin/policy": RoutingIn, "/admin/pools": PoolsIn}
"""Of the admin API: what can be changed while the gateway runs, by the settings' names."""


def run_case(case: Case, gateway_url: str | None) -> list[RequestRecord]:
    """Switch the gateway, send the workload, wait until all of it has ended.

    Raises:
        CaseError: the gateway cannot be made what the case asks for; names the option.
        WorkloadError, OSError: the workload cannot be built, or the gateway does not answer.
    """
    if gateway_url is None:
        raise CaseError("the backend cluster needs the address of its gateway")
    refuse_what_only_the_twin_can(case)
    url = gateway_url.rstrip("/").removesuffix("/v1")
    admin = Admin(url, os.environ.get("ASTROLABE_GATEWAY_ADMIN_TOKEN"))
    _check_units(case, admin)
    switch(admin, case.gateway)
    api_key = os.environ.get("ASTROLABE_API_KEY")
    return send_case(case, admin, is_emulated=False, api_key=api_key)


def switch(admin: Admin, options: Mapping[str, str]) -> None:
    """Make the gateway what these options make of one that is started with them.

    What the admin API can change and the options do not name is set as it is by default.

    Raises:
        CaseError: an option is none of the gateway's, or its value can only be given at the start
            and was not.
        OSError: the admin API does not answer.
    """
    wanted = _settings(options)
    switched: dict[str, set[str]] = {
        path: wanted.keys() & body.model_fields for path, body in SWITCHES.items()
    }
    running = admin.get("/admin/settings")
    for name in (wanted.keys() & options).difference(*switched.values()):
        if running.get(name) != wanted[name]:
            (flag,) = gateway_flags({name: options[name]})
            raise CaseError(
                f"gateway.{name} {options[name]!r}: this can only be set when the gateway starts;"
                f" it runs with {running.get(name)!r}. Start it with {flag}"
            )
    for path, names in switched.items():
        admin.put(path, {name: wanted[name] for name in sorted(names)})


def _settings(options: Mapping[str, str]) -> dict[str, Any]:
    try:
        return GatewaySettings(**options).model_dump(mode="json")  # type: ignore[arg-type]
    except ValidationError as error:
        told = [f"gateway.{one['loc'][0]} {one['input']!r}: {one['msg']}" for one in error.errors()]
        raise CaseError("; ".join(told)) from None


def _check_units(case: Case, admin: Admin) -> None:
    """Which GPUs they have the gateway does not know."""
    healthy = sum(unit["healthy"] and not unit["draining"] for unit in admin.get("/admin/units"))
    wanted = sum(group.count for group in case.fleet.groups) - case.fleet.num_standby
    if healthy != wanted:
        raise CaseError(f"fleet: {wanted} units are asked for, the gateway has {healthy}")
