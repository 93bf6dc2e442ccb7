"""The estimator used online: question in, distribution of output tokens out, within a deadline."""

from __future__ import annotations

from pathlib import Path

from length_estimation.model_folder import DEFAULT_FOLDER
from length_estimation.online.figures import EstimatorFigures
from wire.length import LengthEstimate, LengthQuestion


class OnlineEstimator:
    """Estimates with a trained model, corrected by what the served models really answer.

    Belongs to one event loop; inference runs on a thread of its own.
    """

    def __init__(
        self,
        folder: Path = DEFAULT_FOLDER,
        *,
        deadline_s: float = 0.02,
        max_waiting: int = 64,
        cache_size: int = 10_000,
        num_threads: int = 1,
    ) -> None: ...

    async def start(self) -> None:
        """Load and check the model, and warm it up.

        Raises:
            ModelFolderError: a file is missing, damaged or no such model; names it.
        """

    async def close(self) -> None:
        """Let the running inference end; questions that wait get no estimate."""

    async def estimate(self, question: LengthQuestion) -> LengthEstimate:
        """The distribution of output tokens; ``source`` is ``model`` or ``model_recalibrated``.

        Raises:
            NotEstimated: see ``length_estimation.online.errors``.
        """
        raise NotImplementedError

    async def try_estimate(self, question: LengthQuestion) -> LengthEstimate | None:
        """``estimate``, or None: deadline, overload or failure, counted in ``figures``. Never raises
        but when cancelled."""

    def observe(self, question: LengthQuestion, num_output_tokens: int) -> None:
        """Learn from an answer that ended by itself or at ``max_tokens``. Never raises.

        The prediction is looked up by the question's content; a question whose prediction is not
        in the cache teaches nothing.
        """

    def figures(self) -> EstimatorFigures:
        """Counts so far."""
        raise NotImplementedError
