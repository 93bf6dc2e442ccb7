"""What benchmarks.pools compares, and under which load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exp.fleet.local import emulated_plan, vllm_cpu_plan
from exp.fleet.plan import Plan
from exp.fleet.temporary import PORT_OFFSET
from exp.workloads.arrivals import Phases, Rates
from exp.workloads.contents import SHAREGPT, Bounds, Span
from exp.workloads.mixed import LONG, SHORT, MixedLoad, Stream
from exp.workloads.replay import Goals

BASIS = "predictive"
"""The configuration that the others are compared with."""
COMMON = {
    "policy": "min_new_request_latency",
    "worker_concurrency_limit": "8",
    "hold_above_ms": "never",
}
"""Queues form by AdaSplit's limit alone: they are what its rules go by."""
CONFIGURATIONS: Mapping[str, Mapping[str, str]] = {
    "none": {**COMMON, "pools": "none"},
    "static": {**COMMON, "pools": "static", "stealing": "off", "num_long_units": "1"},
    "qhap+rasp": {**COMMON, "pools": "qhap", "stealing": "rasp"},
    BASIS: {**COMMON, "pools": "predictive", "stealing": "predictive"},
}
"""Settings of the gateway; all else stays as it is by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A fleet and its load."""

    engine: str
    num_units: int
    load: MixedLoad
    goals: Mapping[str, Goals]
    """Sent with each request, and judged by."""

    def plan(self, configuration: str) -> Plan:
        """The fleet, its gateway configured so."""
        make = vllm_cpu_plan if self.engine == "vllm-cpu" else _emulated
        return make(self.num_units, PORT_OFFSET, CONFIGURATIONS[configuration])


def _emulated(num_units: int, port_offset: int, gateway_options: Mapping[str, str]) -> Plan:
    return emulated_plan(num_units, 1.0, port_offset, gateway_options)


def _twice(duration_s: float) -> Phases:
    """Two ON phases in a trace."""
    return Phases(on_s=0.24 * duration_s, off_s=0.26 * duration_s)


def emulated_scenario(num_units: int, duration_s: float) -> Scenario:
    """A30-like units with Llama-2-7B, 8 requests at a time on each.

    Chats alone take about 60 % of the units' time; with the long prompts of an ON phase the load
    is about what the units can bear.
    """
    chats = Bounds(output=Span(512, 512), exact_lengths=False, max_model_len=4096)
    papers = Bounds(output=Span(128, 128), exact_lengths=True, max_model_len=4096)
    rate = 0.7 * num_units
    return Scenario(
        engine="emulated",
        num_units=num_units,
        goals={SHORT: Goals(ttft_ms=1_000.0), LONG: Goals(ttft_ms=10_000.0)},
        load=MixedLoad(
            duration_s=duration_s,
            phases=_twice(duration_s),
            streams={
                SHORT: Stream(rates=Rates(rate, rate), source=SHAREGPT, bounds=chats),
                LONG: Stream(rates=Rates(0.5 * num_units, 0.0), source="2000-3500", bounds=papers),
            },
        ),
    )


def vllm_cpu_scenario(num_units: int, duration_s: float) -> Scenario:
    """Real vLLM servers with SmolLM2-135M, which share this machine's cores."""
    chats = Bounds(output=Span(48, 48), exact_lengths=True, max_model_len=2048)
    papers = Bounds(output=Span(16, 16), exact_lengths=True, max_model_len=2048)
    rate = 0.4 * num_units
    return Scenario(
        engine="vllm-cpu",
        num_units=num_units,
        goals={SHORT: Goals(ttft_ms=2_000.0), LONG: Goals(ttft_ms=20_000.0)},
        load=MixedLoad(
            duration_s=duration_s,
            phases=_twice(duration_s),
            streams={
                SHORT: Stream(rates=Rates(rate, rate), source=SHAREGPT, bounds=chats),
                LONG: Stream(rates=Rates(0.12 * num_units, 0.0), source="1500", bounds=papers),
            },
        ),
    )
