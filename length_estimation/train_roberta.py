"""``python -m length_estimation train``: fine-tunes an encoder to predict output lengths."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import Trainer

from length_estimation.data_sets import DataError, read_examples
from length_estimation.examples import Example, prompts_sha256
from length_estimation.export import ExportError, export
from length_estimation.fine_tuning import (
    Options,
    TrainingError,
    has_checkpoint,
    make_input_config,
    make_regressor,
    make_trainer,
    predict,
    prepare_checkpoints,
)
from length_estimation.inputs import InputMaker
from length_estimation.model_card import Trained, model_card
from length_estimation.model_folder import FORMAT, ModelConfig, TrainedOn
from length_estimation.pretrained import PretrainedError, load_encoder
from length_estimation.provenance import FILE_NAME, read_provenance
from length_estimation.regressor import QUANTILE_LEVELS, LengthRegressor, group_of
from length_estimation.spread import fit_stretch
from length_estimation.training_data import Rows, encode

TRACED_QUESTIONS = 4
"""Questions the exporter follows through the model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, export, and say what was reached."""
    arguments = _parser().parse_args(argv)
    transformers.logging.set_verbosity_error()
    options = Options(**{name: getattr(arguments, name) for name in Options.__slots__})
    try:
        train(arguments.data, arguments.out, options, name=arguments.name, resume=arguments.resume)
    except (DataError, ExportError, PretrainedError, TrainingError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


def train(data: Path, out: Path, options: Options, *, name: str, resume: bool) -> ModelConfig:
    """Train on ``data`` and write the model folder ``out``.

    Raises:
        DataError, PretrainedError, TrainingError, ExportError: see there.
    """
    checkpoints = out.with_name(f"{out.name}-checkpoints")
    prepare_checkpoints(checkpoints, options, resume=resume)
    transformers.set_seed(options.seed)
    examples = _examples(data, options)
    encoder = load_encoder(options.base_model, (one.text for one in examples["train"]))
    maker = InputMaker(encoder.tokenizer, make_input_config(encoder, options, examples["train"]))
    rows = {split: encode(maker, found) for split, found in examples.items()}
    regressor = make_regressor(encoder, maker.config, rows["train"], options)
    trainer = make_trainer(regressor, maker, rows, checkpoints, options)
    trainer.train(resume_from_checkpoint=resume and has_checkpoint(checkpoints))
    # Mixed precision wraps the model's forward, which the exported graph must not have.
    regressor = trainer.accelerator.unwrap_model(regressor, keep_fp32_wrapper=False)
    _stretch(regressor, predict(regressor, maker, rows["validation"]), rows["validation"])
    config = ModelConfig(
        format=FORMAT,
        name=name,
        base_model=options.base_model,
        date=datetime.now(timezone.utc).date().isoformat(),
        quantile_levels=list(QUANTILE_LEVELS),
        inputs=maker.config,
        trained_on=TrainedOn(
            source=_source(data),
            num_examples=len(examples["train"]),
            test_prompts_sha256=prompts_sha256(one.text for one in examples["test"]),
        ),
        sha256={},
    )
    sample = maker.collate([row.encoded for row in rows["validation"].rows[:TRACED_QUESTIONS]])
    predicted = {
        split: predict(regressor, maker, rows[split]).double().numpy()
        for split in ("validation", "test")
        if examples[split]
    }
    card = model_card(_trained(config, options, trainer, examples, predicted))
    config = export(regressor, encoder.tokenizer, config, sample, out, card)
    print(card)
    return config


def _examples(data: Path, options: Options) -> dict[str, list[Example]]:
    examples = {split: read_examples(data, split) for split in ("train", "validation", "test")}
    if options.max_examples:
        order = np.random.default_rng(options.seed).permutation(len(examples["train"]))
        chosen = sorted(order[: options.max_examples].tolist())
        examples["train"] = [examples["train"][index] for index in chosen]
    return examples


def _stretch(regressor: LengthRegressor, log_quantiles: torch.Tensor, validation: Rows) -> None:
    groups = group_of(torch.from_numpy(validation.numbers()))
    truth = torch.tensor([row.log_tokens for row in validation.rows])
    levels = torch.tensor(QUANTILE_LEVELS)
    regressor.stretch.copy_(fit_stretch(log_quantiles, truth, groups, levels))


def _trained(
    config: ModelConfig,
    options: Options,
    trainer: Trainer,
    examples: dict[str, list[Example]],
    predicted: dict[str, NDArray[np.float64]],
) -> Trained:
    return Trained(
        config=config,
        options=asdict(options),
        best_step=trainer.state.best_global_step or trainer.state.global_step,
        num_steps=trainer.state.global_step,
        true_tokens={
            split: np.array([one.num_output_tokens for one in examples[split]])
            for split in predicted
        },
        log_quantiles=predicted,
    )


def _source(data: Path) -> str:
    try:
        return read_provenance(data).source
    except FileNotFoundError:
        return data.name
    except msgspec.DecodeError as error:
        raise DataError(f"{data / FILE_NAME} cannot be read: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m length_estimation train",
        description="Fine-tune an encoder to predict the distribution of output lengths. Writes a "
        "model folder that `global_scheduler --length-estimator DIR` serves.",
        epilog="example: python -m length_estimation train --data data/sharegpt --out models/mine",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="what `length_estimation sample` has made")
    add("--out", type=Path, required=True, help="model folder to write")
    add("--name", default="lengths", help="the model's name, in decisions and metrics")
    add(
        "--base-model",
        default="roberta-base",
        help="minilm (needs no hub), scratch (a small RoBERTa), a path or a hub id",
    )
    add("--layers", type=int, default=3, help="keep the first so many layers; 0 keeps all")
    add("--window", type=int, default=48, help="tokens read of a request; costs time in serving")
    add("--tail", type=int, default=12, help="of them from the end, where a text is too long")
    add("--context-tokens", type=int, default=16, help="most tokens read of earlier messages")
    add("--epochs", type=float, default=3.0, help="passes over the data at most")
    add("--batch-size", type=int, default=64, help="examples a step")
    add("--learning-rate", type=float, default=2e-4, help="of the encoder; ten times for the head")
    add("--dropout", type=float, default=0.1, help="in encoder and head")
    add("--max-examples", type=int, default=0, help="train on so many, drawn at random; 0: all")
    add("--patience", type=int, default=3, help="half epochs without gain before training stops")
    add(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="auto: bf16 on GPUs that have it, fp32 on CPUs (some CPUs gain from bf16 as well)",
    )
    add("--seed", type=int, default=0, help="of sampling, weights and order")
    add("--resume", action="store_true", help="go on from the last checkpoint of the same run")
    return parser
