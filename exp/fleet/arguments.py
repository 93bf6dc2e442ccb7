"""The options of ``exp/setup.sh``. Run as a module it only checks them (or prints the help)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from exp.fleet.state import DEFAULT_FOLDER
from predictor.vllm_plugin import TESTED_VLLM

DESCRIPTION = """\
Install Astrolabe and start a fleet: vLLM servers (engines), a predictor sidecar beside each, and
the gateway that your OpenAI client talks to.

Without options everything runs on this machine with emulated engines, so that no GPU is needed: it
waits until all is healthy, sends a few real prompts, shows how each was routed, and leaves the
fleet running. Nothing is installed outside of .venv. Running it again is harmless: what runs is
kept, what died is started again.
"""

EXAMPLES = """
examples:
  bash exp/setup.sh                        4 emulated units and the gateway on port 8200
  bash exp/setup.sh --engine vllm-cpu      2 real vLLM servers on this CPU (16 GB of memory)
  bash exp/setup.sh --backend vidur        the same with stock Vidur answering in the sidecars
  bash exp/setup.sh --status               what runs, where, and whether it is healthy
  bash exp/setup.sh --stop                 end what was started
  bash exp/setup.sh --hosts config/host_configs.json --dry-run
                                           what would be done on your GPU hosts
  bash exp/setup.sh --hosts config/host_configs.json
                                           do it; --status and --stop take --hosts too

Host files are made by exp/generate_config.py. State and logs: .astrolabe/fleet/.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of ``exp/setup.sh``."""
    made = argparse.ArgumentParser(
        prog="bash exp/setup.sh",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_actions(made)
    _add_local(made)
    _add_hosts(made)
    _add_installation(made)
    return made


def _add_actions(made: argparse.ArgumentParser) -> None:
    actions = made.add_mutually_exclusive_group()
    actions.add_argument("--status", action="store_true", help="show what runs")
    actions.add_argument("--stop", action="store_true", help="end what was started")
    actions.add_argument("--install-only", action="store_true", help="make .venv, start nothing")
    made.add_argument(
        "--start-timeout",
        type=above_zero,
        metavar="SECONDS",
        help="how long all may take to become healthy (default: 180; 600 with --hosts or vllm-cpu)",
    )


def _add_local(made: argparse.ArgumentParser) -> None:
    local = made.add_argument_group("on this machine")
    local.add_argument(
        "--engine",
        choices=("emulated", "vllm-cpu"),
        default="emulated",
        help="emulated engines (default), or real vLLM on the CPU with SmolLM2-135M",
    )
    local.add_argument(
        "--backend",
        choices=("fast", "vidur"),
        default="fast",
        help="what answers in the sidecars: the compiled what-if (default), or stock Vidur, which "
        "is installed, too",
    )
    local.add_argument(
        "--units",
        type=at_least(1),
        metavar="N",
        help="engines, each with its sidecar (default: 4 emulated, 2 vllm-cpu)",
    )
    local.add_argument(
        "--requests",
        type=at_least(0),
        metavar="N",
        default=40,
        help="prompts to send when all is healthy (default: 40; 0: none)",
    )
    local.add_argument(
        "--speed",
        type=above_zero,
        metavar="X",
        default=1.0,
        help="emulated engines run X times as fast as the hardware they stand for (default: 1)",
    )
    local.add_argument(
        "--gateway-option",
        type=_setting,
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="a setting of the gateway, such as queue_order=sjf; repeat for each. All of them: "
        "python -m global_scheduler --help",
    )
    local.add_argument(
        "--port-offset",
        type=at_least(0),
        metavar="N",
        default=0,
        help="add N to all ports: engines 8001.., sidecars 8101.., gateway 8200 (default: 0)",
    )
    local.add_argument(
        "--state-dir",
        type=Path,
        metavar="FOLDER",
        default=DEFAULT_FOLDER,
        help=f"where the record and the logs are kept (default: {DEFAULT_FOLDER})",
    )


def _add_hosts(made: argparse.ArgumentParser) -> None:
    hosts = made.add_argument_group("on other hosts, over SSH")
    hosts.add_argument("--hosts", type=_file, metavar="FILE", help="config/host_configs.json")
    hosts.add_argument(
        "--dry-run", action="store_true", help="print every command, run none (with --hosts)"
    )
    hosts.add_argument(
        "--hf-token-file",
        type=_file,
        metavar="FILE",
        help="a Hugging Face token for the hosts' vLLM (default: HF_TOKEN of the environment). It "
        "and the next go through ssh's input into the processes' environment, into no file and no "
        "command line",
    )
    hosts.add_argument(
        "--admin-token-file",
        type=_file,
        metavar="FILE",
        help="the token of the gateway's admin API (default: ASTROLABE_GATEWAY_ADMIN_TOKEN of the "
        "environment)",
    )
    hosts.add_argument(
        "--install-vllm",
        action="store_true",
        help=f"install vLLM {TESTED_VLLM} on the hosts, in an environment of its own, for a "
        "vllm_command that starts with vllm",
    )
    hosts.add_argument(
        "--ssh-config", type=_file, metavar="FILE", help="for ssh -F, instead of ~/.ssh/config"
    )


def _add_installation(made: argparse.ArgumentParser) -> None:
    installation = made.add_argument_group("installation")
    installation.add_argument(
        "--pip-args",
        metavar="ARGS",
        default="",
        help='more arguments for pip, here and on hosts: --pip-args="--index-url https://..."',
    )
    installation.add_argument(
        "--extras",
        metavar="LIST",
        default="exp",
        help="extras of pyproject.toml to install (default: exp)",
    )


def check(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse combinations that make no sense; ends the program with a message."""
    for name in ("dry_run", "hf_token_file", "admin_token_file", "install_vllm", "ssh_config"):
        if getattr(options, name) and not options.hosts:
            flag = "--" + name.replace("_", "-")
            made.error(f"{flag} is for deploying: give --hosts FILE too")
    if options.hosts and not options.hosts.is_file():
        made.error(f"--hosts: there is no file {options.hosts}; exp/generate_config.py makes one")
    if options.hosts:
        local = ("engine", "backend", "units", "requests", "speed", "port_offset", "state_dir")
        for name in (*local, "gateway_option"):
            if getattr(options, name) != made.get_default(name):
                flag = "--" + name.replace("_", "-")
                made.error(f"{flag} is for a fleet on this machine: it does not go with --hosts")
    if options.port_offset > 50_000:
        made.error(f"--port-offset: at most 50000, not {options.port_offset}")
    if options.units and options.units > 99:
        made.error(f"--units: at most 99 on one machine, not {options.units}")


def _file(text: str) -> Path:
    """A file as seen from where ``exp/setup.sh`` was called, or from the project's folder, in which
    the script runs."""
    seen_from_caller = Path(os.environ.get("ASTROLABE_CALLED_FROM", ""), text)
    return seen_from_caller if seen_from_caller.exists() else Path(text)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"NAME=VALUE, not {text!r}")
    if name in ("host", "port", "unit", "hosts"):
        raise argparse.ArgumentTypeError(f"{name} of the gateway is chosen by the fleet")
    return name, value


def at_least(lowest: int) -> Callable[[str], int]:
    """A type of argument: whole numbers from ``lowest`` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"a whole number of at least {lowest}, not {text!r}")
        return value

    return parse


def above_zero(text: str) -> float:
    """A type of argument: finite numbers above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0, not {text!r}")
    return value


if __name__ == "__main__":
    _parser = parser()
    check(_parser, _parser.parse_args())
