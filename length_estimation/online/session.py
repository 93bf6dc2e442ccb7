"""The trained model in ONNX Runtime: questions in, logarithms of tokens out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from length_estimation.inputs import Batch, Encoded
from length_estimation.model_folder import (
    MODEL_FILE,
    ModelFolder,
    ModelFolderError,
    load_model_folder,
)
from length_estimation.online.errors import InferenceFailed
from wire.length import LengthQuestion

OUTPUTS = ("log_quantiles", "log_mean")
LARGEST_RUN = 8
"""Most questions that share a run of the model: more gain nothing and take memory."""
LEAST_FILL = 0.75
"""They share one if the shortest has at least this share of the longest's tokens: padding costs as
much as text, and sharing gains only about a tenth."""
ROUNDING = 1e-4
"""Quantiles may fall by so much where they should be equal."""
ONLY_FATAL = 4
"""ONNX Runtime's number for what it logs: errors are raised too, and logged by those who count."""


class RawEstimate(NamedTuple):
    """What the model says of one question, before any correction."""

    log_quantiles: NDArray[np.float64]
    """(levels,), rising; natural logarithms of tokens."""
    log_mean: float


class LengthModel:
    """A trained model, ready for inference by one thread at a time."""

    def __init__(self, folder: ModelFolder, session: InferenceSession) -> None:
        self._session = session
        self._input_names = [one.name for one in session.get_inputs()]
        self._input_maker = folder.input_maker
        self.config = folder.config

    def predict(self, questions: Sequence[LengthQuestion]) -> list[RawEstimate | InferenceFailed]:
        """One result for each question, in their order.

        Raises:
            InferenceFailed: the model's outputs have a wrong shape.
            Exception: whatever ONNX Runtime and the tokenizer raise; they have no common class.
        """
        encoded = self._input_maker.encode(questions)
        results: dict[int, RawEstimate | InferenceFailed] = {}
        for group in of_like_length([len(one.token_ids) for one in encoded]):
            found = self._run([encoded[index] for index in group])
            results.update(zip(group, found, strict=True))
        return [results[index] for index in range(len(questions))]

    def _run(self, encoded: Sequence[Encoded]) -> list[RawEstimate | InferenceFailed]:
        inputs = self._input_maker.collate(encoded)._asdict()
        quantiles, means = self._session.run(
            OUTPUTS, {name: inputs[name] for name in self._input_names}
        )
        shape = (len(encoded), len(self.config.quantile_levels))
        if quantiles.shape != shape or means.shape != shape[:1]:
            raise InferenceFailed("the model's outputs have a wrong shape")
        rows = zip(quantiles.astype(np.float64), means.tolist(), strict=True)
        return [_checked(RawEstimate(*row)) for row in rows]


def load_model(folder: Path, *, num_threads: int = 1) -> LengthModel:
    """Load, check and warm up.

    Raises:
        ModelFolderError: a file is missing, damaged, or no such model; the message names it.
    """
    checked, file = load_model_folder(folder), folder / MODEL_FILE
    try:
        session = InferenceSession(
            checked.model, _options(num_threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the library has no common class for its errors
        raise ModelFolderError(f"{file} cannot be used by ONNX Runtime: {error}") from error
    _check_names(session, file)
    model = LengthModel(checked, session)
    try:
        (found,) = model.predict([LengthQuestion(text="How are you?", num_prompt_tokens=4)])
    except Exception as error:  # as above
        raise ModelFolderError(f"{file} fails at its first question: {error}") from error
    if isinstance(found, InferenceFailed):
        raise ModelFolderError(f"{file} fails at its first question: {found}")
    return model


def of_like_length(num_tokens: Sequence[int]) -> list[list[int]]:
    """Indices of questions that are worth padding to one length, group by group."""
    groups: list[list[int]] = []
    least = math.inf
    for index in sorted(range(len(num_tokens)), key=num_tokens.__getitem__, reverse=True):
        if num_tokens[index] < least or len(groups[-1]) == LARGEST_RUN:
            groups.append([])
            least = LEAST_FILL * num_tokens[index]
        groups[-1].append(index)
    return groups


def _options(num_threads: int) -> SessionOptions:
    options = SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ONLY_FATAL
    # Threads that spin would take the cores that the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_names(session: InferenceSession, file: Path) -> None:
    outputs = [one.name for one in session.get_outputs()]
    missing = [name for name in OUTPUTS if name not in outputs]
    if missing:
        raise ModelFolderError(f"{file} has no output {missing[0]!r}, only {outputs}")
    unknown = [one.name for one in session.get_inputs() if one.name not in Batch._fields]
    if unknown:
        raise ModelFolderError(f"{file} wants an input {unknown[0]!r}, which is not known")


def _checked(raw: RawEstimate) -> RawEstimate | InferenceFailed:
    if not np.isfinite([*raw.log_quantiles, raw.log_mean]).all():
        return InferenceFailed("the model's outputs are not finite")
    if (np.diff(raw.log_quantiles) < -ROUNDING).any():
        return InferenceFailed("the model's quantiles do not rise")
    return raw._replace(log_quantiles=np.maximum.accumulate(raw.log_quantiles))
