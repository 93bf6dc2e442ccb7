"""A trained model as the gateway serves it, before it has learnt from any answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from length_estimation.accuracy import Predictions
from length_estimation.model_folder import ModelConfig
from length_estimation.online.distribution import EstimateMaker
from length_estimation.online.errors import InferenceFailed
from length_estimation.online.session import load_model
from wire.length import LengthEstimate, LengthQuestion


class ServedModel:
    """Estimates of the model in a folder, by ONNX Runtime on one core.

    Raises:
        ModelFolderError: a file is missing, damaged, or no such model.
    """

    def __init__(self, folder: Path) -> None:
        self._model = load_model(folder)
        self._maker = EstimateMaker(self.config.quantile_levels)

    @property
    def config(self) -> ModelConfig:
        """What the folder says of its model."""
        return self._model.config

    def estimate(self, questions: Sequence[LengthQuestion]) -> list[LengthEstimate]:
        """One estimate a question, in their order.

        Raises:
            InferenceFailed: the model failed for one of them.
        """
        estimates = []
        for question, raw in zip(questions, self._model.predict(questions), strict=True):
            if isinstance(raw, InferenceFailed):
                raise raw
            estimates.append(
                self._maker.make(raw, raw.log_quantiles, question.max_tokens, self.config.name)
            )
        return estimates

    def predict(self, questions: Sequence[LengthQuestion]) -> Predictions:
        """The same as arrays; the one number is the median.

        Raises:
            InferenceFailed: the model failed for one of them.
        """
        quantiles = [list(one.quantiles.values()) for one in self.estimate(questions)]
        tokens = np.array(quantiles).reshape(len(questions), -1)
        return Predictions(tokens[:, self.config.quantile_levels.index(0.5)], np.log(tokens))
