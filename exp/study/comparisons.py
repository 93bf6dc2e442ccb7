"""Studies that hold schedulers against one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exp.study.case import Arrivals, Goals, WorkloadSpec
from exp.study.plan import Scenario, Study
from exp.study.scenarios import (
    CONVERSATIONS,
    GOALS,
    LLAMA_70B,
    MIXED,
    QWEN_7B,
    SHAREGPT,
    equal_fleet,
    fleet,
    with_requests,
)
from exp.study.systems import BASELINES, ORACLE, OURS, scaled_adasplit, systems, variant

GROWTH = ("round_robin", "token_load", "llumnix_minus", OURS)
"""Systems of which it is shown how they grow with the fleet."""
STATIC = {"pools": "static", "stealing": "off", "num_long_units": "6"}
"""Half of twelve units are long, as in ``config/router_static.env``: one alone is overrun."""
SHED = {"slo_miss": "shed", "shed_below": "1"}
"""What cannot be in time is refused, whatever its priority (0 where none is given)."""
WAIT = {"slo_miss": "wait"}
"""It waits as long as it could still be in time."""


def main() -> Study:
    """Equal units and ShareGPT."""

    def scenario(num_units: int, rates_per_s: Sequence[float], only: Sequence[str]) -> Scenario:
        return Scenario(
            name=f"equal_{num_units}",
            label=f"{num_units} A30, ShareGPT",
            fleet=equal_fleet(num_units),
            workload=with_requests(SHAREGPT, 250 * num_units),
            rates_per_s=tuple(rates_per_s),
            capacity_near_per_s=2.5 * num_units,
            goals=GOALS,
            variables={"units": num_units},
            only=tuple(only),
            is_in_quick=num_units <= 12,
        )

    return Study(
        name="main",
        title="Equal units, ShareGPT: load and latency, capacity, growth with the fleet",
        repeats="Astrolabe, figure 6 and section 5.3",
        scenarios=(
            scenario(12, (8.0, 16.0, 22.0, 26.0, 29.0, 31.0, 33.0), ()),
            *(scenario(num_units, (), GROWTH) for num_units in (3, 6, 24)),
        ),
        systems=(
            *systems((*BASELINES, "adasplit")),
            scaled_adasplit(12),
            *systems((OURS, ORACLE)),
        ),
        baseline="llumnix_minus",
        plots=("experiment_plot",),
    )


def llumnix() -> Study:
    """What moving running requests is worth."""
    return Study(
        name="llumnix",
        title="Llumnix with migration, without, and prediction",
        repeats="Astrolabe, section 5.5",
        scenarios=(
            Scenario(
                name="a100_7b",
                label="8 A100, Llama-2-7B, ShareGPT",
                fleet=fleet(("A100-40G", 8)),
                workload=SHAREGPT,
                rates_per_s=(28.0, 38.0, 44.0, 48.0, 52.0),
                capacity_near_per_s=48.0,
                goals=GOALS,
            ),
            Scenario(
                name="a100_70b",
                label="4 x 4 A100, Llama-2-70B, ShareGPT",
                fleet=fleet(("A100-40G", 4), model=LLAMA_70B),
                workload=with_requests(SHAREGPT, 1_000),
                rates_per_s=(6.0, 9.0, 11.0, 12.0, 13.0),
                capacity_near_per_s=12.0,
                goals=GOALS,
            ),
            # Where seats run out before memory does, as on those, Llumnix moves nobody.
            Scenario(
                name="a30_7b",
                label="12 A30, Llama-2-7B, ShareGPT",
                fleet=equal_fleet(),
                workload=SHAREGPT,
                rates_per_s=(26.0, 29.0, 31.0, 33.0, 36.0),
                capacity_near_per_s=30.0,
                goals=GOALS,
            ),
        ),
        systems=systems(("llumnix_minus", "llumnix_migration", "block", OURS)),
        baseline="llumnix_minus",
        plots=("llumnix_comparison_plot",),
    )


def pools() -> Study:
    """Chats, and long prompts that come steadily or in phases."""

    def scenario(name: str, label: str, arrivals: Arrivals) -> Scenario:
        return Scenario(
            name=name,
            label=label,
            fleet=equal_fleet(),
            workload=WorkloadSpec(
                source=MIXED.source,
                prompt_tokens=MIXED.prompt_tokens,
                output_tokens=MIXED.output_tokens,
                long_share=MIXED.long_share,
                arrivals=arrivals,
            ),
            rates_per_s=(12.0, 16.0, 20.0, 22.0, 24.0, 26.0),
            capacity_near_per_s=23.0,
            goals=GOALS,
        )

    return Study(
        name="pools",
        title="Short and long requests on one fleet",
        repeats="AdaSplit",
        scenarios=(
            scenario("mixed", "12 A30, a tenth of long prompts", Arrivals()),
            scenario(
                "mixed_on_off",
                "12 A30, long prompts in phases of 30 s",
                Arrivals(kind="on_off", on_s=30.0, off_s=30.0),
            ),
        ),
        systems=(
            *systems((*BASELINES, "adasplit")),
            scaled_adasplit(12),
            variant("adasplit", "static", "static pools, half are long", STATIC),
            *systems((OURS,)),
        ),
        baseline="token_load",
        plots=("pools_plot",),
    )


def hetero() -> Study:
    """Units of unequal speed and memory."""
    return Study(
        name="hetero",
        title="Unequal units",
        repeats="beyond the paper",
        scenarios=(
            Scenario(
                name="a30_a100",
                label="8 A30 and 4 A100, ShareGPT",
                fleet=fleet(("A30", 8), ("A100-40G", 4)),
                workload=SHAREGPT,
                rates_per_s=(20.0, 28.0, 34.0, 38.0, 42.0, 46.0),
                capacity_near_per_s=40.0,
                goals=GOALS,
            ),
            Scenario(
                name="a30_a100_h100",
                label="6 A30, 4 A100 and 2 H100, ShareGPT",
                fleet=fleet(("A30", 6), ("A100-40G", 4), ("H100", 2)),
                workload=SHAREGPT,
                rates_per_s=(24.0, 34.0, 40.0, 46.0, 52.0, 58.0),
                capacity_near_per_s=46.0,
                goals=GOALS,
            ),
        ),
        systems=(
            *systems((*BASELINES, "adasplit")),
            scaled_adasplit(12),
            *systems((OURS,)),
        ),
        baseline="token_load",
        plots=("hetero_plot",),
    )


def multi_turn() -> Study:
    """Conversations whose turns share their beginnings."""
    return Study(
        name="multi_turn",
        title="Conversations with shared prefixes",
        repeats="beyond the paper",
        scenarios=(
            Scenario(
                name="multi_turn",
                label="8 A100, ShareGPT conversations, prefix caching",
                fleet=fleet(("A100-80G", 8), prefix_caching=True),
                workload=CONVERSATIONS,
                rates_per_s=(16.0, 22.0, 28.0, 32.0, 36.0, 40.0),
                capacity_near_per_s=32.0,
                goals=GOALS,
            ),
        ),
        systems=systems((*BASELINES, OURS)),
        baseline="token_load",
        plots=("experiment_plot",),
    )


def slo() -> Study:
    """Answers within latency goals."""
    goals = Goals(ttft_ms=1_000.0, tpot_ms=40.0)
    told = {"slo": f"*={goals.ttft_ms:g},{goals.tpot_ms:g}"}
    return Study(
        name="slo",
        title="Goodput under latency goals",
        repeats="beyond the paper; goodput as in vLLM's benchmark",
        scenarios=(
            Scenario(
                name="slo",
                label="12 A30, ShareGPT, TTFT within 1 s and TPOT within 40 ms",
                fleet=equal_fleet(),
                workload=SHAREGPT,
                rates_per_s=(16.0, 22.0, 26.0, 30.0, 34.0, 40.0),
                goals={"*": goals},
            ),
        ),
        systems=(
            *systems(("round_robin", "least_outstanding", "token_load", "llumnix_minus", "block")),
            variant(OURS, "astrolabe_wait", "{system}, late ones wait", told | WAIT),
            variant(OURS, "astrolabe_shed", "{system}, late ones are shed", told | SHED),
            *systems((OURS,)),
        ),
        plots=("experiment_plot",),
    )


def extension(traces: Mapping[str, str]) -> Study:
    """Another model, and traces of other services where their files are given."""
    recorded = []
    if (path := traces.get("burstgpt")) is not None:
        workload = WorkloadSpec(source="burstgpt", path=path)
        recorded.append(_recorded("BurstGPT", workload, (10.0, 20.0, 30.0, 35.0, 40.0)))
    if (path := traces.get("azure")) is not None:
        workload = WorkloadSpec(source="azure", path=path)
        recorded.append(_recorded("Azure", workload, (6.0, 10.0, 14.0, 18.0, 22.0)))
    qwen = Scenario(
        name="qwen_sharegpt",
        label="12 A30, Qwen2-7B, ShareGPT",
        fleet=equal_fleet(model=QWEN_7B),
        workload=SHAREGPT,
        rates_per_s=(30.0, 45.0, 52.0, 58.0, 64.0),
        capacity_near_per_s=58.0,
        goals=GOALS,
    )
    return Study(
        name="extension",
        title="Another model, other traces",
        repeats="Astrolabe, section 5.6",
        scenarios=(qwen, *recorded),
        systems=systems((*BASELINES, OURS)),
        baseline="llumnix_minus",
        plots=("experiment_plot",),
    )


def _recorded(title: str, workload: WorkloadSpec, rates_per_s: tuple[float, ...]) -> Scenario:
    return Scenario(
        name=f"llama_{workload.source}",
        label=f"12 A30, Llama-2-7B, {title}",
        fleet=equal_fleet(),
        workload=workload,
        rates_per_s=rates_per_s,
        capacity_near_per_s=rates_per_s[-2],
        goals=GOALS,
    )
