"""Simple ways to predict output lengths, which a trained estimator has to beat.

They learn from first turns and see the prompt's text alone. The lengths' spread about a prediction
is that of the training data, the same factor for every prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from length_estimation.accuracy import Predictions
from length_estimation.examples import Example
from wire.length import LengthQuestion

NUM_TOPICS = 128
"""Dimensions that TF-IDF is reduced to before boosting, as many as it has at most."""
MAX_TERMS = 50_000
"""Words and pairs of words, the most frequent ones."""
NUM_FOLDS = 3
MIN_EXAMPLES = 10
"""Fewer say nothing of quantiles."""


class TooFewExamples(ValueError):
    """A baseline cannot learn from so little."""


class Baseline(Protocol):
    """Learns from answered requests and predicts others."""

    def fit(self, examples: Sequence[Example]) -> None:
        """Learn, once.

        Raises:
            TooFewExamples: fewer than ``MIN_EXAMPLES``, or no words in any of them.
        """

    def predict(self, questions: Sequence[LengthQuestion]) -> Predictions:
        """Predict, once ``fit`` was called."""


class ConstantBaseline:
    """The same for every request: one number, and the quantiles of the training answers."""

    def __init__(
        self, levels: Sequence[float], middle: Callable[[NDArray[np.float64]], Any]
    ) -> None:
        self._levels = levels
        self._middle = middle
        self._tokens = 0.0
        self._log_quantiles = np.zeros(len(levels))

    def fit(self, examples: Sequence[Example]) -> None:
        """See ``Baseline``."""
        lengths = _lengths(examples)
        self._tokens = float(self._middle(lengths))
        self._log_quantiles = np.log(np.quantile(lengths, self._levels))

    def predict(self, questions: Sequence[LengthQuestion]) -> Predictions:
        """See ``Baseline``."""
        return Predictions(
            np.full(len(questions), self._tokens), np.tile(self._log_quantiles, (len(questions), 1))
        )


class TextBaseline:
    """A regression of log length on the text's TF-IDF; its one number is what that expects.

    Its quantiles lie about the prediction as the lengths of training examples lay about predictions
    of a model that had not seen them.
    """

    def __init__(self, levels: Sequence[float], make_model: Callable[[int], Any]) -> None:
        """``make_model`` is given the number of terms."""
        self._levels = levels
        self._make_model = make_model
        self._terms = TfidfVectorizer(
            ngram_range=(1, 2), max_features=MAX_TERMS, sublinear_tf=True, dtype=np.float32
        )
        self._model: Any = None
        self._spread = np.zeros(len(levels))

    def fit(self, examples: Sequence[Example]) -> None:
        """See ``Baseline``."""
        log_lengths = np.log(_lengths(examples))
        try:
            terms = self._terms.fit_transform([example.text for example in examples])
        except ValueError as error:  # no text has a word
            raise TooFewExamples(f"no words to learn from: {error}") from error
        self._model = self._make_model(terms.shape[1])
        folds = KFold(NUM_FOLDS, shuffle=True, random_state=0)
        expected = cross_val_predict(self._model, terms, log_lengths, cv=folds)
        self._spread = np.quantile(log_lengths - expected, self._levels)
        self._model.fit(terms, log_lengths)

    def predict(self, questions: Sequence[LengthQuestion]) -> Predictions:
        """See ``Baseline``."""
        terms = self._terms.transform([question.text for question in questions])
        expected = np.asarray(self._model.predict(terms), dtype=np.float64)
        return Predictions(np.exp(expected), expected[:, None] + self._spread)


def make_baselines(levels: Sequence[float]) -> dict[str, Baseline]:
    """All of them, by name, with quantiles at these levels."""
    return {
        "mean": ConstantBaseline(levels, np.mean),
        "median": ConstantBaseline(levels, np.median),
        "tfidf_boosting": TextBaseline(levels, _boosting),
        "tfidf_ridge": TextBaseline(levels, lambda num_terms: Ridge(alpha=3.0)),
    }


def _boosting(num_terms: int) -> Pipeline:
    num_topics = max(1, min(NUM_TOPICS, num_terms - 1))
    return make_pipeline(
        TruncatedSVD(num_topics, random_state=0),
        HistGradientBoostingRegressor(loss="absolute_error", random_state=0),
    )


def _lengths(examples: Sequence[Example]) -> NDArray[np.float64]:
    if len(examples) < MIN_EXAMPLES:
        raise TooFewExamples(
            f"{len(examples)} first turns to learn from; a baseline needs {MIN_EXAMPLES}"
        )
    lengths: NDArray[np.float64] = np.array(
        [example.num_output_tokens for example in examples], dtype=np.float64
    )
    return lengths
