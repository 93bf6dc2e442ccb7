"""Random load on an emulated fleet in which everything fails now and then, and nothing may be lost.

For --minutes, clients ask at random rates: short and long, streamed and not, with and without
goals and priorities; some leave early and some send nonsense. Meanwhile engines and sidecars are
killed and started again, stopped for some seconds, and drained; policy, pools, stealing, limits and
the order of the queues change every --switch-every seconds. It is checked that

  * every request gets a whole answer or a clear error (OpenAI's JSON; 429 with Retry-After),
  * afterwards nothing waits and nothing is counted as running, in the gateway and in the engines,
  * the gateway has logged no unexpected error,
  * the gateway's memory does not grow (judged in soaks of ten minutes or more).

The last line printed is JSON. The same seed draws the same requests, though what they meet depends
on the machine. Ends only processes that it has started.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.processes import rss_mb
from exp.fleet.arguments import above_zero, at_least
from exp.fleet.display import SilentDisplay
from exp.fleet.errors import FleetError
from exp.fleet.local import emulated_plan
from exp.fleet.plan import Plan
from exp.fleet.supervisor import Supervisor
from exp.fleet.temporary import PORT_OFFSET, supervised_fleet
from exp.gateway_admin import Admin
from exp.soaking.admin import switch
from exp.soaking.clients import Tally, ask
from exp.soaking.memory import try_growth
from exp.soaking.trouble import Trouble

GATEWAY_OPTIONS = {"max_queued_requests": "60", "max_queue_age_s": "20"}
"""So little that the load exceeds them now and then."""
TICK_S = 1.0
DRAIN_WITHIN_S = 15.0
JUDGED_FROM_MINUTES = 10.0
MOST_GROWTH_MB_PER_H = 20.0
UNEXPECTED = re.compile(r"Traceback|^(ERROR|CRITICAL)|was never retrieved")
KEPT_LINES = 5


@dataclass(slots=True, kw_only=True)
class Soak:
    """One run. The clients have a thread of their own; all else happens in the caller's."""

    supervisor: Supervisor
    plan: Plan
    seed: int
    most_per_s: float
    switch_every_s: float
    trouble_every_s: float
    tally: Tally = field(default_factory=Tally)
    num_switches: int = 0
    times_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    def run(self, duration_s: float) -> dict[str, Any]:
        """Soak, and tell what was found."""
        rng = random.Random(self.seed)
        admin = Admin(self.plan.parts[-1].url)
        watch = partial(self._watch, admin, random.Random(f"{self.seed} switches"))
        trouble = Trouble(
            supervisor=self.supervisor, plan=self.plan, admin=admin, rng=rng, wait=watch
        )
        is_over = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            clients = thread.submit(self._ask, admin, is_over)
            try:
                began_s = time.monotonic()
                with tqdm(total=round(duration_s), unit="s", disable=None) as progress:
                    while time.monotonic() < began_s + duration_s and not clients.done():
                        watch(rng.expovariate(1 / self.trouble_every_s))
                        trouble.make()
                        progress.update(round(time.monotonic() - began_s) - progress.n)
            finally:
                is_over.set()
            clients.result()  # raises what the clients have raised
        return self._findings(admin, trouble, duration_s)

    def _ask(self, admin: Admin, is_over: threading.Event) -> None:
        model = admin.get("/v1/models")["data"][0]["id"]
        rng = random.Random(f"{self.seed} clients")
        asyncio.run(ask(admin.url, model, self.most_per_s, rng, self.tally, is_over.is_set))

    def _watch(self, admin: Admin, rng: random.Random, duration_s: float) -> None:
        """Let time pass; meanwhile look at the gateway's memory and switch what is due."""
        until_s = time.monotonic() + duration_s
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(TICK_S, left_s))
            self.times_s.append(time.monotonic())
            self.rss_mb.append(rss_mb(self._gateway_pid()))
            if self.times_s[-1] - self.times_s[0] >= (self.num_switches + 1) * self.switch_every_s:
                switch(admin, rng)
                self.num_switches += 1

    def _gateway_pid(self) -> int:
        fleet = self.supervisor.store.try_load()
        assert fleet is not None, "the fleet runs as long as the soak"
        return next(one.process.pid for one in fleet.started if one.part.role == "gateway")

    def _findings(self, admin: Admin, trouble: Trouble, duration_s: float) -> dict[str, Any]:
        stuck = _stuck(admin, self.plan)
        unexpected = self._unexpected_lines()
        growth = try_growth(self.times_s, self.rss_mb)
        is_judged = growth is not None and duration_s >= JUDGED_FROM_MINUTES * 60
        is_flat = not (is_judged and growth and growth.low_mb_per_h > MOST_GROWTH_MB_PER_H)
        return {
            "passed": not (self.tally.num_problems or stuck or unexpected) and is_flat,
            "minutes": round(duration_s / 60, 2),
            "requests": sum(self.tally.outcomes.values()),
            "outcomes": dict(self.tally.outcomes),
            "statuses": {str(k): v for k, v in sorted(self.tally.statuses.items())},
            "num_problems": self.tally.num_problems,
            "problems": self.tally.problems,
            "trouble": dict(trouble.counts),
            "switches": self.num_switches,
            "stuck": stuck,
            "unexpected_log_lines": unexpected,
            "rss_mb": [round(self.rss_mb[0], 1), round(self.rss_mb[-1], 1)],
            "rss_growth": growth and {k: round(v, 2) for k, v in asdict(growth).items()},
            "memory_judged": is_judged,
        }

    def _unexpected_lines(self) -> list[str]:
        log = self.supervisor.store.log_path(self.plan.parts[-1])
        lines = log.read_text(errors="replace").splitlines()
        return [line for line in lines if UNEXPECTED.search(line)][:KEPT_LINES]


def _stuck(admin: Admin, plan: Plan) -> list[str]:
    """What does not come to rest although all requests have ended."""
    until_s = time.monotonic() + DRAIN_WITHIN_S
    while (found := _unrest(admin, plan)) and time.monotonic() < until_s:
        time.sleep(0.5)
    return found


def _unrest(admin: Admin, plan: Plan) -> list[str]:
    pools = admin.get("/admin/pools")
    seen = {f"queue of {name}": queue["length"] for name, queue in pools["queues"].items()}
    seen |= {f"{unit['name']}, tickets included": unit["active"] for unit in pools["units"]}
    seen |= {unit["name"]: unit["num_outstanding"] for unit in admin.get("/admin/units")}
    for part in plan.parts:
        if part.role == "engine":
            for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
                seen[f"{part.title} {name}"] = round(Admin(part.url).metric(name))
    found = [f"{name}: {count}" for name, count in seen.items() if count]
    healthy = {unit["name"] for unit in admin.get("/admin/units") if unit["healthy"]}
    return found + [
        f"{unit['name']} is missing" for unit in pools["units"] if unit["name"] not in healthy
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exp.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=above_zero, default=30.0, help="of load (default %(default)g)")
    add("--units", type=at_least(1), default=4, help="emulated units (default %(default)s)")
    add(
        "--rate", type=above_zero, default=10.0, help="most requests a second (default %(default)g)"
    )
    add("--switch-every", type=above_zero, default=60.0, metavar="S", help="(default %(default)g)")
    add(
        "--trouble-every",
        type=above_zero,
        default=8.0,
        metavar="S",
        help="mean (default %(default)g)",
    )
    add("--seed", type=int, default=0, help="(default %(default)s)")
    add(
        "--port-offset",
        type=at_least(0),
        default=PORT_OFFSET,
        help="of all ports (default %(default)s)",
    )
    add("--output", type=Path, metavar="JSON", help="write the findings there as well")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Soak and tell; 1 if something is wrong, 2 if the fleet cannot be run."""
    options = _parser().parse_args(argv)
    plan = emulated_plan(options.units, 1.0, options.port_offset, GATEWAY_OPTIONS)
    try:
        with supervised_fleet(plan, SilentDisplay()) as supervisor:
            soak = Soak(
                supervisor=supervisor,
                plan=plan,
                seed=options.seed,
                most_per_s=options.rate,
                switch_every_s=options.switch_every,
                trouble_every_s=options.trouble_every,
            )
            findings = soak.run(options.minutes * 60)
    except FleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.output is not None:
        options.output.write_text(json.dumps(findings, indent=1))
    print(json.dumps(findings))
    return 0 if findings["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
