"""``python -m exp.emulator``: serve one emulated engine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from exp.emulator.app import create_app
from exp.emulator.options import EmulatorOptions
from exp.emulator.server import EmulatedServer
from predictor.errors import ConfigurationError
from predictor.step_time.gpus import GPUS, find_gpu
from predictor.vllm_plugin.publisher import SnapshotPublisher
from wire.model_config import HF_CONFIG_HELP, ConfigError, read_model_config


def main() -> None:
    """Read the command line and serve until interrupted."""
    arguments = _parser().parse_args()
    try:
        options = _options(arguments)
        publisher = SnapshotPublisher(options.engine_id, arguments.snapshot_listen)
        app = create_app(EmulatedServer(options, publisher))
    except (ConfigError, ConfigurationError) as error:
        sys.exit(f"error: {error}")
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        log_level=arguments.log_level,
        access_log=False,
        timeout_graceful_shutdown=2,
    )


def _options(arguments: argparse.Namespace) -> EmulatorOptions:
    read = read_model_config(arguments.model_config, arguments.hf_config)
    if read.note:
        print(f"note: {read.note}", file=sys.stderr)
    model = read.config
    tokenizer = arguments.tokenizer or (Path(model.tokenizer) if model.tokenizer else None)
    return EmulatorOptions(
        model=model,
        gpu=find_gpu(arguments.gpu),
        engine_id=arguments.engine_id or f"emulator-{arguments.port}",
        seed=arguments.seed,
        noise=arguments.noise,
        speed=arguments.speed,
        tokenizer=tokenizer,
        scheduling_policy=arguments.scheduling_policy,
        long_prefill_token_threshold=arguments.long_prefill_token_threshold,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exp.emulator",
        description="A server that behaves like a vLLM server, without a model.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8001)
    add("--model-config", type=Path, required=True, help="a file of config/")
    add("--hf-config", type=Path, help=HF_CONFIG_HELP)
    add("--gpu", default="A30", help=f"one of {', '.join(GPUS)}")
    add("--engine-id", help="names the snapshots; by default emulator-PORT")
    add("--snapshot-listen", help="host:port or unix:/path at which to serve snapshots, too")
    add("--seed", type=int, default=0, help="of the lengths of answers and of the noise")
    add("--noise", type=_number(0.0), default=0.0, help="spread of step times, such as 0.05")
    add("--speed", type=_number(1e-6), default=1.0, help="divides step times")
    add("--tokenizer", type=Path, help="tokenizer.json or its folder; by default an estimate")
    add("--scheduling-policy", choices=("fcfs", "priority"), default="fcfs")
    add("--long-prefill-token-threshold", type=int, default=0)
    add("--log-level", default="warning")
    return parser


def _number(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, got {text!r}")
        return value

    return parse


if __name__ == "__main__":
    main()
