"""Find the best concurrency of a unit: how many requests at a time it should be sent.

Keeps 1, 2, 4, 8, ... requests running on the unit, for some seconds each, and measures output
tokens a second, TTFT and TPOT. The best concurrency is the largest that keeps --tpot-goal-ms (for
nine in ten requests) if one is given; otherwise the knee, where throughput over response time is
highest. Send the unit nothing else meanwhile.

examples:
  python -m exp.micro_bench --url http://node1:8001
  python -m exp.micro_bench --hosts config/host_configs.json --unit node1-1 --write
  python -m exp.micro_bench --url http://node1:8001 --tpot-goal-ms 50

--write puts the result into worker_concurrency_limits of the unit's node, from where the gateway
takes it (--hosts, or a deployment with exp/setup.sh). The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from exp.concurrency import Level, Load, best_level, is_enough, measure
from exp.fleet.arguments import above_zero, at_least
from exp.fleet.display import table
from exp.workloads.errors import TargetError
from exp.workloads.replay import served_model
from wire.host_config import UnitAddress, load_host_configs
from wire.model_config import ConfigError, load_model_config

PROJECT = Path(__file__).resolve().parents[1]
HEADER = ("AT A TIME", "TOKENS/S", "TTFT MEAN", "TTFT P90", "TPOT MEAN", "TPOT P90", "")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m exp.micro_bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--url", help="of the vLLM server (default: as the host file says)")
    add("--hosts", type=Path, metavar="FILE", help="a host file, such as config/host_configs.json")
    add("--unit", metavar="NAME", help="a unit of the host file")
    add("--write", action="store_true", help="put the result into the host file")
    add("--tpot-goal-ms", type=above_zero, metavar="MS", help="see above")
    add("--prompt-tokens", type=at_least(1), default=256, metavar="N", help="(%(default)s)")
    add("--output-tokens", type=at_least(2), default=128, metavar="N", help="(%(default)s)")
    add("--seconds", type=above_zero, default=10.0, help="measured at each level (%(default)g)")
    add("--max-concurrency", type=at_least(1), default=256, metavar="N", help="(%(default)s)")
    return made


def check(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse combinations that make no sense; ends the program with a message."""
    if bool(options.hosts) != bool(options.unit):
        made.error("--hosts and --unit go together")
    if options.write and not options.hosts:
        made.error("--write needs --hosts FILE and --unit NAME")
    if not (options.url or options.hosts):
        made.error("give --url, or --hosts and --unit")


async def levels(url: str, load: Load, goal_ms: float | None, most: int) -> list[Level]:
    """One level after the other, until more gains nothing or the goal is missed.

    Raises:
        TargetError: the unit does not answer.
    """
    model = await served_model(url)
    counts = [2**power for power in range(most.bit_length()) if 2**power <= most]
    found: list[Level] = []
    with tqdm(counts, unit="level", leave=False, disable=None) as progress:
        for concurrency in progress:
            progress.set_description(f"{concurrency} at a time")
            found.append(await measure(url, model, concurrency, load))
            if is_enough(found, goal_ms):
                break
    return found


def report(found: Sequence[Level], best: Level | None) -> str:
    """The levels as a table for people; the best one marked."""
    return table(
        HEADER,
        [
            (
                str(one.concurrency),
                f"{one.output_tokens_per_s:,.0f}",
                f"{one.ttft_ms_mean:,.0f} ms",
                f"{one.ttft_ms_p90:,.0f} ms",
                f"{one.tpot_ms_mean:,.1f} ms",
                f"{one.tpot_ms_p90:,.1f} ms",
                "<- best" if one is best else "",
            )
            for one in found
        ],
    )


def find_unit(hosts: Path, name: str) -> tuple[int, UnitAddress]:
    """The number of the unit's node in the file, and the unit.

    Raises:
        ConfigError: the file cannot be used, or has no such unit.
    """
    configs = load_host_configs(hosts)
    names = []
    for index, node in enumerate(configs.nodes):
        for unit in configs.units_of(node, load_model_config(PROJECT / node.model_config_path)):
            names.append(unit.name)
            if unit.name == name:
                return index, unit
    raise ConfigError(f"{hosts}: there is no unit {name!r}; its units are {', '.join(names)}")


def write_limit(hosts: Path, name: str, limit: int) -> None:
    """Put a unit's limit into the host file; all else in it stays.

    Raises:
        ConfigError: as for ``find_unit``.
        OSError: the file cannot be written.
    """
    index, _ = find_unit(hosts, name)
    data = json.loads(hosts.read_text())
    data["nodes"][index].setdefault("worker_concurrency_limits", {})[name] = limit
    draft = hosts.with_name(f"{hosts.name}.new")
    draft.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    draft.replace(hosts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, write; 1 if the unit cannot be measured or misses the goal even alone."""
    made = parser()
    options = made.parse_args(argv)
    check(made, options)
    load = Load(options.prompt_tokens, options.output_tokens, options.seconds)
    try:
        url = options.url or find_unit(options.hosts, options.unit)[1].engine_url
        found = asyncio.run(
            levels(url.rstrip("/"), load, options.tpot_goal_ms, options.max_concurrency)
        )
        best = best_level(found, options.tpot_goal_ms)
        print(report(found, best))
        if best is None:
            print("Even one request at a time misses the goal.", file=sys.stderr)
            return 1
        if options.write:
            write_limit(options.hosts, options.unit, best.concurrency)
            print(f"{options.hosts}: worker_concurrency_limits.{options.unit}: {best.concurrency}")
    except (ConfigError, TargetError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"best": best.concurrency, "levels": [asdict(one) for one in found]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
