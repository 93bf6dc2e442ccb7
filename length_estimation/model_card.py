"""The card of a trained model: what it is, what it learnt from and how good it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from length_estimation.accuracy import Accuracy, Predictions, accuracy
from length_estimation.model_folder import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a card tells; arrays are (questions,) and (questions, levels) for each split."""

    config: ModelConfig
    options: dict[str, Any]
    best_step: int
    num_steps: int
    true_tokens: dict[str, NDArray[np.int64]]
    log_quantiles: dict[str, NDArray[np.float64]]


def model_card(trained: Trained) -> str:
    """The card in Markdown."""
    config, options = trained.config, trained.options
    return "\n".join(
        [
            f"# {config.name}",
            "",
            "Predicts how many tokens a language model will answer with: quantiles of the number",
            "of output tokens, and the mean. Part of Astrolabe (MIT).",
            "",
            f"* trained: {config.date}, on {config.trained_on.num_examples:,} examples of"
            f" {config.trained_on.source}",
            f"* models whose answers it saw: {', '.join(config.inputs.models)}",
            f"* encoder: {config.base_model}"
            + (f", its first {options['layers']} layers" if options["layers"] else ""),
            f"* reads {config.inputs.window} tokens of a request: the newest message's head and"
            f" tail ({config.inputs.tail}), and up to {config.inputs.context_tokens} of what came"
            " before",
            f"* weights of step {trained.best_step} of {trained.num_steps}, the best on the"
            " validation split",
            "",
            "## Figures",
            "",
            "Before its weights were rounded to 8 bits; `python -m length_estimation eval` gives",
            "those of the model as it is served, next to baselines.",
            "",
            *_table(trained),
            "",
            "## Limits",
            "",
            "It knows the lengths that the models above give. Another model may be more or less",
            "verbose: Astrolabe recalibrates for each served model from the lengths it observes.",
            "",
            "## Options",
            "",
            *(f"* {name}: {value}" for name, value in options.items()),
            "",
        ]
    )


def _table(trained: Trained) -> list[str]:
    levels = trained.config.quantile_levels
    median = levels.index(0.5)
    figures: dict[str, Accuracy] = {}
    for split, true in trained.true_tokens.items():
        log_quantiles = trained.log_quantiles[split]
        predictions = Predictions(np.exp(log_quantiles[:, median]), log_quantiles)
        figures[split] = accuracy(true, predictions, levels)
    names = list(asdict(next(iter(figures.values()))))
    head = "| split | examples | " + " | ".join(names) + " |"
    rows = [
        f"| {split} | {len(trained.true_tokens[split]):,} | "
        + " | ".join(f"{value:.3f}" for value in asdict(found).values())
        + " |"
        for split, found in figures.items()
    ]
    return [head, "| --- " * (len(names) + 2) + "|", *rows]
