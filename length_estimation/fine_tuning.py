"""Fine-tuning: transformers' trainer around the regressor, with checkpoints that resume."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments

from length_estimation.examples import Example
from length_estimation.inputs import InputConfig, InputMaker
from length_estimation.pretrained import Encoder
from length_estimation.regressor import (
    QUANTILE_LEVELS,
    LengthRegressor,
    keep_layers,
    pinball,
)
from length_estimation.training_data import Rows, collate

HEAD_LEARNING_RATE_FACTOR = 10.0
"""The head starts from nothing and may move faster than the pre-trained encoder."""
WEIGHT_DECAY = 0.01
WARMUP_SHARE = 0.06
EVALUATIONS_PER_EPOCH = 2
OPTIONS_FILE, CHECKPOINTS = "options.json", "checkpoint-*"
EVALUATION_BATCH = 128
TRAINED_TO_WATCHED, FEWEST_WATCHED = 6, 200
"""Training watches one validation example for so many of its own: a small run is not to spend its
time on a large validation split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What training depends on besides the data."""

    base_model: str
    layers: int
    window: int
    tail: int
    context_tokens: int
    epochs: float
    batch_size: int
    learning_rate: float
    dropout: float
    max_examples: int
    patience: int
    precision: str
    seed: int


class TrainingError(Exception):
    """Training cannot go on; the message says what to change."""


def prepare_checkpoints(
    checkpoints: Path, options: Options, *, resume: bool, force: bool = False
) -> None:
    """Make the folder of checkpoints, or check that it is one of the same run.

    Args:
        force: whether to delete those of an earlier run.

    Raises:
        TrainingError: there is an earlier run, which is not to be resumed or had other options.
    """
    file = checkpoints / OPTIONS_FILE
    if force:
        for checkpoint in checkpoints.glob(CHECKPOINTS):
            shutil.rmtree(checkpoint)
    if has_checkpoint(checkpoints):
        if not resume:
            raise TrainingError(
                f"{checkpoints} holds an earlier run: go on with it (--resume) or train anew "
                "(--force)"
            )
        before = json.loads(file.read_text())
        for key, value in asdict(options).items():
            if before.get(key) != value:
                raise TrainingError(
                    f"--resume needs the same options: {key} was {before.get(key)}, is {value}"
                )
    checkpoints.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(options), indent=2))


def has_checkpoint(checkpoints: Path) -> bool:
    """Whether there is one to go on from."""
    return any(checkpoints.glob(CHECKPOINTS))


def make_input_config(encoder: Encoder, options: Options, train: Sequence[Example]) -> InputConfig:
    """How the model reads requests.

    Raises:
        TrainingError: the encoder's window is smaller, or the tail larger, than asked for.
    """
    if options.window > encoder.max_positions:
        raise TrainingError(
            f"--window must be at most {encoder.max_positions}, the encoder's, not {options.window}"
        )
    if not 0 <= options.tail < options.window - 2:
        raise TrainingError(
            f"--tail must be from 0 to {options.window - 3}, window less marks, not {options.tail}"
        )
    return InputConfig(
        window=options.window,
        tail=options.tail,
        context_tokens=options.context_tokens,
        start_id=encoder.start_id,
        separator_id=encoder.separator_id,
        pad_id=encoder.pad_id,
        models=sorted({example.model for example in train}),
    )


def make_regressor(
    encoder: Encoder, inputs: InputConfig, rows: Rows, options: Options
) -> LengthRegressor:
    """The untrained model around the encoder, which is cut down to its first layers.

    Raises:
        TrainingError: it has fewer layers.
    """
    if options.layers:
        try:
            keep_layers(encoder.module, options.layers)
        except ValueError as error:
            raise TrainingError(f"--{error}") from error
    for module in encoder.module.modules():
        if isinstance(module, nn.Dropout):
            module.p = options.dropout
    numbers = torch.from_numpy(rows.numbers())
    return LengthRegressor(
        encoder.module,
        encoder.hidden_size,
        len(inputs.models),
        numbers.mean(dim=0),
        numbers.std(dim=0),
        options.dropout,
    )


def make_trainer(
    regressor: LengthRegressor,
    maker: InputMaker,
    rows: dict[str, Rows],
    checkpoints: Path,
    options: Options,
) -> Trainer:
    """Trains with checkpoints, evaluates twice an epoch, stops early, ends with the best weights.

    Args:
        rows: of the splits ``train`` and ``validation``.
    """
    steps_per_epoch = max(1, -(-len(rows["train"]) // options.batch_size))
    between = max(1, steps_per_epoch // EVALUATIONS_PER_EPOCH)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP_SHARE,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=between,
        save_strategy="steps",
        save_steps=between,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="pinball",
        greater_is_better=False,
        label_names=["log_tokens"],
        logging_steps=max(1, between // 5),
        use_cpu=not torch.cuda.is_available(),
        bf16=_is_bf16(options.precision),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        seed=options.seed,
    )
    return Trainer(
        model=regressor,
        args=arguments,
        data_collator=functools.partial(collate, maker),
        train_dataset=rows["train"],
        eval_dataset=_watched(rows, options.seed),
        compute_metrics=_validation_figures,
        optimizers=(_optimizer(regressor, options.learning_rate), None),
        callbacks=[EarlyStoppingCallback(options.patience)],
    )


def _watched(rows: dict[str, Rows], seed: int) -> Rows:
    """Of the validation split, drawn at random."""
    found = rows["validation"].rows
    most = max(FEWEST_WATCHED, len(rows["train"]) // TRAINED_TO_WATCHED)
    order = np.random.default_rng(seed).permutation(len(found))[:most]
    return Rows([found[index] for index in sorted(order)])


def _is_bf16(precision: str) -> bool:
    if precision == "auto":
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    return precision == "bf16"


def _optimizer(regressor: LengthRegressor, learning_rate: float) -> torch.optim.Optimizer:
    encoder = list(regressor.encoder.parameters())
    head = [own for name, own in regressor.named_parameters() if not name.startswith("encoder.")]
    groups = [
        {"params": encoder, "lr": learning_rate},
        {"params": head, "lr": learning_rate * HEAD_LEARNING_RATE_FACTOR},
    ]
    return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)


def _validation_figures(found: EvalPrediction) -> dict[str, float]:
    log_quantiles, truth = torch.tensor(found.predictions[0]), torch.tensor(found.label_ids)
    levels = torch.tensor(QUANTILE_LEVELS)
    median = log_quantiles[:, QUANTILE_LEVELS.index(0.5)]
    return {
        "pinball": float(pinball(log_quantiles, truth, levels)),
        "mae": float((median.exp() - truth.exp()).abs().mean()),
    }


def predict(regressor: LengthRegressor, maker: InputMaker, rows: Rows) -> Tensor:
    """Log quantiles (rows, levels), in the rows' order and in full precision."""
    regressor.eval()
    found = torch.empty(len(rows), len(QUANTILE_LEVELS))
    by_length = sorted(range(len(rows)), key=lambda index: len(rows.rows[index].encoded.token_ids))
    for start in range(0, len(rows), EVALUATION_BATCH):
        chosen = by_length[start : start + EVALUATION_BATCH]
        batch = collate(maker, [rows[index] for index in chosen])
        moved = {name: tensor.to(regressor.levels.device) for name, tensor in batch.items()}
        with torch.inference_mode():
            found[chosen] = regressor(**moved)["log_quantiles"].cpu()
    return found
