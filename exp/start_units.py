"""``bash exp/start_units.sh``: vLLM servers on this host's GPUs, each with a sidecar."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from exp.fleet.actions import show_status, stop
from exp.fleet.arguments import above_zero, at_least
from exp.fleet.display import TerminalDisplay
from exp.fleet.errors import FleetError
from exp.fleet.hosts import node_parts
from exp.fleet.interrupts import interrupt_on_termination
from exp.fleet.local import engine_id_of
from exp.fleet.plan import Part, Plan
from exp.fleet.state import Store
from exp.fleet.supervisor import Supervisor
from wire.host_config import HostConfigs, UnitAddress
from wire.model_config import (
    HF_CONFIG_HELP,
    ConfigError,
    ModelConfig,
    describe,
    read_model_config,
)

PROJECT = Path(__file__).resolve().parents[1]
STARTER = "bash exp/start_units.sh"
STATE_DIR = Path(".astrolabe/units")
START_TIMEOUT_S = 1_800.0
INTERRUPTED = 130
VLLM = (
    "vllm serve {model} --host BIND --port {port} --tensor-parallel-size {tensor_parallel_size}"
    " --max-model-len {max_model_len} --max-num-seqs {max_num_seqs}"
    " --max-num-batched-tokens {max_num_batched_tokens}"
    " --scheduler-cls predictor.vllm_plugin.scheduler.AstrolabeScheduler"
)
EXAMPLES = """
examples:
  bash exp/start_units.sh                        4 units of 2 GPUs each, quantised to fp8
  bash exp/start_units.sh --units 2 --tensor-parallel-size 1 --quantization none \\
      --model-config config/llama_config.json -- --gpu-memory-utilization 0.8
  bash exp/start_units.sh --status
  bash exp/start_units.sh --stop

Engines listen on 8001.., sidecars on 8101... Record and logs: .astrolabe/units/.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=STARTER,
        description="Start vLLM servers with Astrolabe's plug-in on this host, each on GPUs of its "
        "own and with a sidecar, and wait until all are healthy. What runs is kept.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = made.add_mutually_exclusive_group()
    actions.add_argument("--status", action="store_true", help="show what runs")
    actions.add_argument("--stop", action="store_true", help="end what was started")
    actions.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    _add_units(made)
    _add_places(made)
    return made


def _add_units(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--units", type=at_least(1), default=4, metavar="N", help="how many (default: 4)")
    add(
        "--tensor-parallel-size",
        type=at_least(1),
        default=2,
        metavar="N",
        help="GPUs of each unit (default: 2)",
    )
    add(
        "--quantization",
        default="fp8",
        metavar="NAME",
        help="passed on to vLLM; none: as the model is (default: fp8)",
    )
    add(
        "--model-config",
        type=Path,
        default=Path("config/llama70b_config.json"),
        metavar="FILE",
        help="the model and its bounds (default: %(default)s)",
    )
    add("--hf-config", type=Path, metavar="PATH", help=HF_CONFIG_HELP)
    add("--gpu", default="A100", metavar="NAME", help="what sidecars reckon with (default: A100)")
    add(
        "--command",
        metavar="TEXT",
        help="starts an engine in place of `vllm serve`; with {port}, {model}, {engine_id} and the "
        "other placeholders of vllm_command in config/host_configs.json",
    )
    add("--no-sidecars", action="store_true", help="start engines only")
    add("vllm_args", nargs="*", metavar="-- ARG", help="everything after -- goes to the engines")


def _add_places(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--bind-address", default="127.0.0.1", metavar="HOST", help="where all listen (loopback)")
    add(
        "--port-offset",
        type=at_least(0),
        default=0,
        metavar="N",
        help="add N to all ports: engines 8001.., sidecars 8101.. (default: 0)",
    )
    add("--start-timeout", type=above_zero, default=START_TIMEOUT_S, metavar="SECONDS")
    add("--state-dir", type=Path, default=STATE_DIR, metavar="FOLDER")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; returns the exit status."""
    options = parser().parse_args(argv)
    interrupt_on_termination()
    try:
        return run(options)
    except (FleetError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Start, show, or end the units."""
    store = Store(options.state_dir.resolve())
    if options.status:
        return show_status(store, STARTER)
    supervisor = Supervisor(
        store=store,
        display=TerminalDisplay(sys.stdout),
        project=PROJECT,
        start_timeout_s=options.start_timeout,
        command=STARTER,
    )
    if options.stop:
        return stop(supervisor)
    model = served_model(options)
    path = _model_path(model, options.state_dir.resolve())
    plan = units_plan(options, model, path)
    if options.dry_run:
        print(f"# {path} would hold:\n# {model.model_dump_json(exclude_none=True)}")
        print("\n".join(_described(part) for part in plan.parts))
        return 0
    _check_gpus(options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(model.model_dump_json(indent=2, exclude_none=True) + "\n")
    print(f"{plan.label}; logs in {store.logs}")
    with store.locked():
        num_started = supervisor.up(plan)
    print(f"All is healthy; {num_started} of {len(plan.parts)} processes were started now.")
    print(f"\n  python -m global_scheduler {shlex.join(_unit_flags(plan))}")
    return 0


def served_model(options: argparse.Namespace) -> ModelConfig:
    """The model's configuration with the parallelism and quantisation asked for.

    Raises:
        ConfigError: the file cannot be used.
    """
    read = read_model_config(options.model_config, options.hf_config)
    if read.note:
        print(read.note, file=sys.stderr)
    model = read.config
    is_fp8 = options.quantization == "fp8"
    changes = {"tensor_parallel_size": options.tensor_parallel_size, "pipeline_parallel_size": 1}
    return model.model_copy(update={**changes, **({"dtype": "fp8"} if is_fp8 else {})})


def units_plan(options: argparse.Namespace, model: ModelConfig, model_path: Path) -> Plan:
    """What the options ask for. Sidecars predict with the model's configuration at that path.

    Raises:
        ConfigError: a value cannot be used.
    """
    configs = _host(options, model_path)

    def engine_id(unit: UnitAddress) -> str:
        return engine_id_of(unit.name, unit.engine_port, options.port_offset)

    parts = [
        part
        for part in node_parts(configs, configs.nodes[0], model, engine_id)
        if part.role == "engine" or not options.no_sidecars
    ]
    gpus = f"GPUs for each: {options.tensor_parallel_size}"
    label = f"{model.model_name}, units: {options.units}, {gpus}"
    return Plan(label=label, parts=tuple(parts))


def _host(options: argparse.Namespace, model_config: Path) -> HostConfigs:
    """A cluster of this host alone."""
    node = {
        "hostname": "unit",
        "gpu_type": options.gpu,
        "num_gpus": options.units * options.tensor_parallel_size,
        "model_config": str(model_config),
        "vllm_command": _command(options),
        "python": sys.executable,
    }
    ports = {
        "vllm_port": 8001 + options.port_offset,
        "predictor_port": 8101 + options.port_offset,
    }
    data = {"nodes": [node], "bind_address": options.bind_address, **ports}
    try:
        return HostConfigs.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(Path("the units asked for"), error)) from error


def _command(options: argparse.Namespace) -> str:
    command = options.command or VLLM.replace("BIND", options.bind_address)
    if options.quantization != "none" and not options.command:
        command += f" --quantization {shlex.quote(options.quantization)}"
    return f"{command} {shlex.join(options.vllm_args)}"


def _model_path(model: ModelConfig, folder: Path) -> Path:
    """Beside the record."""
    return folder / f"model-tp{model.tensor_parallel_size}-{model.dtype}.json"


def _described(part: Part) -> str:
    env = [f"{key}={shlex.quote(value)}" for key, value in part.env.items()]
    return f"# {part.title}, {part.url}\n{' '.join([*env, shlex.join(part.command)])}"


def _check_gpus(options: argparse.Namespace) -> None:
    """Refuse to start on too few GPUs, where that can be known.

    Raises:
        FleetError: there are too few.
    """
    program = shutil.which("nvidia-smi")
    if program is None or options.command:
        return
    listed = subprocess.run(
        [program, "-L"], capture_output=True, text=True, timeout=30, check=False
    )
    num_gpus = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    wanted = options.units * options.tensor_parallel_size
    if listed.returncode == 0 and num_gpus < wanted:
        raise FleetError(
            f"{options.units} units of {options.tensor_parallel_size} GPUs take {wanted}; this host"
            f" has {num_gpus}. Give fewer --units or a smaller --tensor-parallel-size."
        )


def _unit_flags(plan: Plan) -> list[str]:
    sidecars = {part.name: part.url for part in plan.parts if part.role == "sidecar"}
    return [
        f"--unit={part.name}={','.join(filter(None, (part.url, sidecars.get(part.name))))}"
        for part in plan.parts
        if part.role == "engine"
    ]


if __name__ == "__main__":
    sys.exit(main())
