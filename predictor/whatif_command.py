"""``python -m predictor whatif``: a sidecar's answer from files, at a recorded snapshot's time."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from predictor.backends.base import Backend
from predictor.errors import ConfigurationError, InvalidQuestion, SimulationFailed, SnapshotCorrupt
from predictor.metrics import SidecarMetrics
from predictor.overlay import DEFAULT_OUTPUT_TOKENS
from predictor.populations import Populations
from predictor.questions import read_batch, read_single
from predictor.service import PredictionService
from predictor.settings import BackendName, Rules
from predictor.setup import make_backend
from predictor.state.recorded import RecordedStateSource
from predictor.state.select import StateSelector
from predictor.state.validate import read_json
from predictor.step_time.gpus import find_gpu
from predictor.turns import Turns
from wire.model_config import (
    HF_CONFIG_HELP,
    ConfigError,
    ReadModel,
    complete_model_config,
    read_model_config,
)
from wire.prediction import PredictBatchRequest, PredictBatchResponse
from wire.snapshot import EngineSnapshot

_Read = TypeVar("_Read")

MODEL_CONFIGS = Path("config")
DEFAULT_GPU = "A30"
MAX_QUESTIONS = 100_000

DESCRIPTION = """Answer a question about a recorded snapshot, as the sidecar would have answered it
at that moment. The answer is JSON on standard output."""


def main(arguments: list[str]) -> int:
    """Print the answer; 1 when the state cannot be played, 2 for what cannot be used."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)  # what a live sidecar notes is no news here
    try:
        snapshot = _read(options.snapshot, read_json)
        batch, is_single = _read(options.request, read_question)
        read = _model(options.model_config, options.hf_config, snapshot)
        model = read.config
        gpu = find_gpu(options.gpu)
        backend = make_backend(options.backend, options.rules, model, gpu, options.profile)
        if read.note:
            print(f"note: {read.note}", file=sys.stderr)
        if options.profile is None:
            shown = f"{model.model_name} on {gpu.name}"
            print(f"note: step times are those of the data sheet, {shown}", file=sys.stderr)
        response = asyncio.run(answer(snapshot, batch, backend))
    except (ConfigError, ConfigurationError, InvalidQuestion, SnapshotCorrupt) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SimulationFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown_answer = response.predictions[0] if is_single else response
    print(msgspec.json.format(msgspec.json.encode(shown_answer), indent=2).decode())
    return 0


async def answer(
    snapshot: EngineSnapshot, batch: PredictBatchRequest, backend: Backend
) -> PredictBatchResponse:
    """What a sidecar would answer at the moment of the snapshot.

    Raises:
        InvalidQuestion, SimulationFailed: see ``predictor.errors``.
    """

    def clock() -> float:
        return snapshot.time

    service = PredictionService(
        selector=StateSelector([RecordedStateSource(snapshot)], clock),
        load_backend=lambda: backend,
        metrics=SidecarMetrics(),
        populations=Populations(DEFAULT_OUTPUT_TOKENS, clock),
        turns=Turns(1, time.monotonic),
        calibration=None,
        timer=time.monotonic,
    )
    try:
        await service.warm_up(snapshot.limits)
        return await service.answer(batch)
    finally:
        await service.close()


def read_question(body: bytes) -> tuple[PredictBatchRequest, bool]:
    """A question, a list of them, or the body of a batch; and whether it is a single one.

    Raises:
        InvalidQuestion: it is none of these; names field and value.
    """
    content: object = None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        content = msgspec.json.decode(body)
    if isinstance(content, list):
        body, content = b'{"requests":' + body + b"}", {"requests": content}
    if isinstance(content, dict) and "requests" in content:
        return read_batch(body, MAX_QUESTIONS), False
    return read_single(body), True


def _read(path: Path, read: Callable[[bytes], _Read]) -> _Read:
    """What a file holds; errors name the file."""
    try:
        return read(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except SnapshotCorrupt as error:
        raise SnapshotCorrupt(f"{path}: {error}") from error
    except InvalidQuestion as error:
        raise InvalidQuestion(f"{path}: {error}") from error


def _model(path: Path | None, hf_config: Path | None, snapshot: EngineSnapshot) -> ReadModel:
    """The given configuration, or the one of the model that the snapshot names."""
    if path is not None:
        return read_model_config(path, hf_config)
    for candidate in [] if hf_config else sorted(MODEL_CONFIGS.glob("*.json")):
        with contextlib.suppress(ConfigError):  # there are other files than models'
            read = read_model_config(candidate)
            if read.config.model_name == snapshot.model:
                return read
    try:
        return complete_model_config(Path("the snapshot"), _limits_of(snapshot), hf_config)
    except ConfigError as error:
        raise ConfigurationError(
            f"--model-config: no file in {MODEL_CONFIGS}/ is of the snapshot's model; {error}"
        ) from error


def _limits_of(snapshot: EngineSnapshot) -> dict[str, object]:
    """What a model's configuration says beside the architecture."""
    limits = snapshot.limits
    return {
        "model_name": snapshot.model,
        "max_batch_size": limits.max_num_seqs,
        "chunk_size": limits.max_num_batched_tokens,
        "block_size": limits.block_size,
        "max_model_len": limits.max_model_len,
        "num_gpu_blocks": limits.num_gpu_blocks,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictor whatif", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument(
        "--snapshot",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON of docs/snapshot.md, such as `python -m predictor record` writes",
    )
    parser.add_argument(
        "--request",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON of a question, of a list, or of {"requests": [...], "sent": [...]}',
    )
    parser.add_argument("--backend", choices=get_args(BackendName), default="fast")
    parser.add_argument(
        "--rules", choices=get_args(Rules), help="whose scheduler is played; default: the backend's"
    )
    parser.add_argument("--profile", metavar="NAME", help="step times; default: the data sheet's")
    parser.add_argument(
        "--model-config",
        type=Path,
        metavar="FILE",
        help=f"default: the file in {MODEL_CONFIGS}/ of the snapshot's model, or what is known",
    )
    parser.add_argument("--hf-config", type=Path, metavar="PATH", help=HF_CONFIG_HELP)
    parser.add_argument("--gpu", default=DEFAULT_GPU, help="default: %(default)s")
    return parser
