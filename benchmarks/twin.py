"""How fast the digital twin is: one run of 12 A30 and ShareGPT for each of some systems.

Prints JSON: seconds, requests a second of this machine's time, and the share of it that went into
what-ifs. One core; the first run of all, which may compile, is thrown away.
"""

from __future__ import annotations

import argparse
import json
import time

from exp.study.case import Case, Fleet, UnitGroup, WorkloadSpec
from exp.study.systems import systems
from exp.twin.run import run_case


def measure(case: Case) -> dict[str, float]:
    """One run."""
    began_s = time.perf_counter()
    records = run_case(case)
    took_s = time.perf_counter() - began_s
    what_ifs_s = sum(record.decision_ms or 0.0 for record in records) / 1e3
    return {
        "seconds": round(took_s, 2),
        "requests_per_s": round(len(records) / took_s),
        "what_if_share": round(what_ifs_s / took_s, 2),
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.twin", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=28.0, help="requests/s (default 28)")
    parser.add_argument(
        "--systems",
        default="round_robin,token_load,llumnix_minus,block,astrolabe",
        help="as in exp/study/systems.py",
    )
    options = parser.parse_args()
    workload = WorkloadSpec(source="sharegpt", num_requests=options.requests)
    figures: dict[str, dict[str, float]] = {}
    for system in systems(options.systems.split(",")):
        case = Case(
            scenario="12 A30, ShareGPT",
            system=system.name,
            gateway=system.gateway,
            fleet=Fleet(groups=(UnitGroup(gpu="A30", count=12),)),
            workload=workload,
            rate_per_s=options.rate,
            seed=1,
        )
        if not figures:
            measure(case)
        figures[system.name] = measure(case)
    print(json.dumps({"requests": options.requests, "rate_per_s": options.rate} | figures))


if __name__ == "__main__":
    main()
