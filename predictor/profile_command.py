"""``python -m predictor profile``: step times learnt from an engine, imported, or computed."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from pathlib import Path

from predictor.errors import ConfigurationError, StateUnavailable
from predictor.state.plugin import PluginStateSource, engines_here
from predictor.step_time.base import batch_shape
from predictor.step_time.gpus import GPUS, find_gpu
from predictor.step_time.online import OnlineStepTime
from predictor.step_time.profiles import (
    PROFILES,
    Profile,
    fitted_profile,
    save_profile,
    vidur_profile,
)
from predictor.step_time.roofline import RooflineStepTime, operator_times_ms
from predictor.step_time.vidur_profile import read_profile
from wire.model_config import HF_CONFIG_HELP, ConfigError, ModelConfig, read_model_config

MIN_STEPS = 50
"""Fewer say too little about an engine to be saved."""
READ_INTERVAL_S = 0.1
"""Short enough for a snapshot's 64 records to overlap where steps take 2 ms or more."""

DESCRIPTION = """How long an engine's steps take: learn it from a running engine (--snapshot),
import what Vidur's profiler has measured (--import-vidur), or print what architecture and data
sheet lead one to expect (--roofline). "serve --profile NAME" and "whatif --profile NAME"
use what is saved."""

EXAMPLES = """examples:
  from an engine that serves requests at the moment, with prompts of all lengths if possible:
    python -m predictor profile --snapshot shm:unit-1 --seconds 120 --name llama-a30 \\
        --model-config config/llama_config.json --gpu A30
  from a folder with mlp.csv and attention.csv:
    python -m predictor profile --import-vidur profiling/a30/qwen --name qwen-a30 \\
        --model-config config/qwen_config.json --gpu A30
  nothing measured:
    python -m predictor profile --roofline config/llama_config.json H100
"""


def main(arguments: list[str]) -> int:
    """Do one of the three; 1 when the engine has too little to tell, 2 for what cannot be used."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.roofline:
            path, gpu = options.roofline
            model = _read(Path(path), options.hf_config)
            _print_roofline(RooflineStepTime(model, find_gpu(gpu)), options)
            return 0
        if not (options.model_config and options.gpu and options.name):
            parser.error("--model-config, --gpu and --name are needed")
        model = _read(options.model_config, options.hf_config)
        return _import_vidur(options, model) if options.import_vidur else _fit(options, model)
    except (ConfigError, ConfigurationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _read(path: Path, hf_config: Path | None) -> ModelConfig:
    read = read_model_config(path, hf_config)
    if read.note:
        print(f"note: {read.note}", file=sys.stderr)
    return read.config


def _fit(options: argparse.Namespace, model: ModelConfig) -> int:
    online = OnlineStepTime(RooflineStepTime(model, find_gpu(options.gpu)), model)
    try:
        asyncio.run(_observe(online, options.snapshot, options.seconds))
    except StateUnavailable as error:
        print(f"error: {error}{engines_here(options.snapshot)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; saving what has been learnt", file=sys.stderr)
    figures = online.figures()
    if figures.num_steps < MIN_STEPS:
        print(
            f"error: {figures.num_steps} steps in the time, {MIN_STEPS} are needed: send the "
            "engine requests, or give it more --seconds",
            file=sys.stderr,
        )
        return 1
    _save(fitted_profile(online, model, options.gpu, _this_machine()), options.name)
    print(f"{figures.num_steps} steps; R2 {figures.r2:.3f}, mean error {figures.mape:.1%}")
    return 0


async def _observe(online: OnlineStepTime, address: str, seconds: float) -> None:
    """Learn for that long; an engine that cannot be read once in a while is waited for."""
    source = PluginStateSource(address)
    started_at_s = time.monotonic()
    try:
        online.observe((await source.read()).recent_steps)
        with _Progress(seconds) as progress:
            while (passed_s := time.monotonic() - started_at_s) < seconds:
                progress.show(passed_s, online.figures().num_steps)
                await asyncio.sleep(READ_INTERVAL_S)
                try:
                    online.observe((await source.read()).recent_steps)
                except StateUnavailable:
                    continue
    finally:
        await source.close()


def _import_vidur(options: argparse.Namespace, model: ModelConfig) -> int:
    times = read_profile(options.import_vidur, model)
    for operator, tokens in times.left_out.items():
        print(
            f"note: {operator}: {len(tokens)} impossible points left out, at {tokens[0]} to "
            f"{tokens[-1]} tokens",
            file=sys.stderr,
        )
    measured_on = f"{options.gpu}, Vidur profile {options.import_vidur.name}"
    _save(vidur_profile(times, model, find_gpu(options.gpu).name, measured_on), options.name)
    return 0


def _save(profile: Profile, name: str) -> None:
    path = PROFILES / f"{name}.json" if len(Path(name).parts) == 1 else Path(name)
    save_profile(profile, path)
    print(f"saved {path}")


def _print_roofline(roofline: RooflineStepTime, options: argparse.Namespace) -> None:
    model = roofline.model
    sizes = [2**power for power in range(20) if 2**power < model.chunk_size] + [model.chunk_size]
    rows = [
        {
            "num_tokens": tokens,
            "prefill_ms": round(roofline.step_s(batch_shape([(tokens, 0)])) * 1e3, 3),
            "decode_ms": round(roofline.step_s(batch_shape([], [1024] * tokens)) * 1e3, 3)
            if tokens <= model.max_batch_size
            else None,
            "layer_us": {
                name: round(float(time_ms) * 1e3, 1)
                for name, time_ms in operator_times_ms(model, roofline.gpu, tokens).items()
            },
        }
        for tokens in sizes
    ]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{model.model_name} on {roofline.gpu.name}: milliseconds of a step")
    print("tokens   prefill of one prompt   decode, contexts of 1024")
    for row in rows:
        decode = "-" if row["decode_ms"] is None else f"{row['decode_ms']:.2f}"
        print(f"{row['num_tokens']:6}   {row['prefill_ms']:21.2f}   {decode:>24}")


def _this_machine() -> str:
    return f"{platform.node()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}"


class _Progress:
    """A bar if tqdm is there, else a line every ten seconds, on standard error."""

    def __init__(self, seconds: float) -> None:
        try:
            from tqdm import tqdm  # of the extra "exp"
        except ImportError:
            self._bar = None
        else:
            self._bar = tqdm(
                total=seconds, unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}"
            )
        self._next_line_s = 10.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, passed_s: float, num_steps: int) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f" {num_steps} steps")
            self._bar.update(passed_s - self._bar.n)
        elif passed_s >= self._next_line_s:
            self._next_line_s += 10.0
            print(f"{passed_s:.0f} s, {num_steps} steps", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictor profile",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--snapshot",
        metavar="ADDRESS",
        help="the running engine to learn from: shm:ENGINE_ID, http://host:port/snapshot or "
        "unix:/path",
    )
    source.add_argument(
        "--import-vidur", metavar="DIR", type=Path, help="folder with mlp.csv and attention.csv"
    )
    source.add_argument(
        "--roofline",
        nargs=2,
        metavar=("MODEL_CONFIG", "GPU"),
        help="print the analytic step times of a model on a GPU",
    )
    parser.add_argument("--json", action="store_true", help="with --roofline: JSON, all operators")
    parser.add_argument(
        "--seconds", type=_positive, default=60.0, help="how long to learn (default: 60)"
    )
    parser.add_argument("--name", help=f"saved as {PROFILES}/NAME.json; a path is taken as it is")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="what the unit serves")
    parser.add_argument("--hf-config", type=Path, metavar="PATH", help=HF_CONFIG_HELP)
    parser.add_argument("--gpu", metavar="GPU", help=f"one of {', '.join(GPUS)}")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0 (got {text!r})")
    return value
