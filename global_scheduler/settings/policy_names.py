"""The names by which a policy may be asked for, on the command line and in the admin API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from global_scheduler.policies import POLICIES

PolicyName = Literal[
    "min_total_delay",
    "min_new_request_latency",
    "min_total_unprocessed_tokens",
    "min_llumnix_load",
    "token_load",
    "affinity",
    "locality",
    "load_balanced",
    "least_outstanding",
    "power_of_two",
    "round_robin",
    "random",
]
OTHER_SPELLINGS = {"min_lunmnix_load": "min_llumnix_load"}
"""How the prototype of Astrolabe's paper spells them; they are shown under our names."""


def our_spelling(name: Any) -> Any:
    """The name that the policy has here; anything else stays as it is."""
    return OTHER_SPELLINGS.get(name, name) if isinstance(name, str) else name


AskedPolicy = Annotated[PolicyName, BeforeValidator(our_spelling)]
"""A policy under any of its names, read as ``PolicyName``."""


def with_one_name(given: dict[str, Any]) -> dict[str, Any]:
    """``scheduler`` turned into ``policy``, but where it is unknown or differs, to be refused."""
    asked = our_spelling(given.get("scheduler"))
    if not isinstance(asked, str) or asked not in POLICIES:
        return given
    if our_spelling(given.get("policy") or asked) != asked:
        return given
    rest = {name: value for name, value in given.items() if name != "scheduler"}
    return {**rest, "policy": asked}


def _is_no_other_policy(scheduler: Any, info: ValidationInfo) -> Any:
    """Refuses what ``with_one_name`` has left, but for policies that are refused themselves."""
    if scheduler is not None and "policy" in info.data:
        raise ValueError(
            f"another name for policy, which is {info.data['policy']!r}: give one of them, or the "
            "same to both"
        )
    return scheduler


OtherName = Annotated[AskedPolicy | None, AfterValidator(_is_no_other_policy)]
"""Of a field ``scheduler`` after a field ``policy``."""


assert set(PolicyName.__args__) == set(POLICIES)  # type: ignore[attr-defined]
