"""``python -m length_estimation train``: fine-tunes an encoder to predict output lengths."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments

from length_estimation.examples import Example, prompts_sha256
from length_estimation.export import ExportError, export
from length_estimation.inputs import InputConfig, InputMaker
from length_estimation.model_card import Trained, model_card
from length_estimation.model_folder import FORMAT, ModelConfig, TrainedOn
from length_estimation.pretrained import Encoder, PretrainedError, load_encoder
from length_estimation.regressor import (
    QUANTILE_LEVELS,
    LengthRegressor,
    group_of,
    keep_layers,
    pinball,
)
from length_estimation.spread import fit_stretch
from length_estimation.training_data import DataError, Rows, collate, encode, read_examples

HEAD_LEARNING_RATE_FACTOR = 10.0
"""The head starts from nothing and may move faster than the pre-trained encoder."""
WEIGHT_DECAY = 0.01
WARMUP_SHARE = 0.06
EVALUATIONS_PER_EPOCH = 2
OPTIONS_FILE = "options.json"
EVALUATION_BATCH = 128
TRACED_QUESTIONS = 4


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
    _prepare(checkpoints, options, resume=resume)
    transformers.set_seed(options.seed)
    examples = {split: read_examples(data, split) for split in ("train", "validation", "test")}
    if options.max_examples:
        order = np.random.default_rng(options.seed).permutation(len(examples["train"]))
        chosen = sorted(order[: options.max_examples].tolist())
        examples["train"] = [examples["train"][index] for index in chosen]
    if not examples["train"] or not examples["validation"]:
        raise TrainingError(f"{data} has no examples to train on, or none to validate with")
    encoder = load_encoder(options.base_model, (one.text for one in examples["train"]))
    maker = InputMaker(encoder.tokenizer, _input_config(encoder, options, examples["train"]))
    rows = {split: encode(maker, found) for split, found in examples.items()}
    regressor = _regressor(encoder, maker.config, rows["train"], options)
    trainer = _trainer(regressor, maker, rows, checkpoints, options)
    trainer.train(resume_from_checkpoint=resume and _has_checkpoint(checkpoints))
    # Mixed precision wraps the model's forward, which the exported graph must not have.
    regressor = trainer.accelerator.unwrap_model(regressor, keep_fp32_wrapper=False)
    _stretch(regressor, _predict(regressor, maker, rows["validation"]), rows["validation"])
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
        split: _predict(regressor, maker, rows[split]).double().numpy()
        for split in ("validation", "test")
        if examples[split]
    }
    card = model_card(_trained(config, options, trainer, examples, predicted))
    config = export(regressor, encoder.tokenizer, config, sample, out, card)
    print(card)
    return config


def _prepare(checkpoints: Path, options: Options, *, resume: bool) -> None:
    file = checkpoints / OPTIONS_FILE
    if _has_checkpoint(checkpoints):
        if not resume:
            raise TrainingError(
                f"{checkpoints} holds an earlier run: go on with it (--resume) or delete it"
            )
        before = json.loads(file.read_text())
        for key, value in asdict(options).items():
            if before.get(key) != value:
                raise TrainingError(
                    f"--resume needs the same options: {key} was {before.get(key)}, is {value}"
                )
    checkpoints.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(options), indent=2))


def _has_checkpoint(checkpoints: Path) -> bool:
    return any(checkpoints.glob("checkpoint-*"))


def _input_config(encoder: Encoder, options: Options, train: Sequence[Example]) -> InputConfig:
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


def _regressor(
    encoder: Encoder, inputs: InputConfig, rows: Rows, options: Options
) -> LengthRegressor:
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


def _trainer(
    regressor: LengthRegressor,
    maker: InputMaker,
    rows: dict[str, Rows],
    checkpoints: Path,
    options: Options,
) -> Trainer:
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
        seed=options.seed,
    )
    return Trainer(
        model=regressor,
        args=arguments,
        data_collator=functools.partial(collate, maker),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        compute_metrics=_validation_figures,
        optimizers=(_optimizer(regressor, options.learning_rate), None),
        callbacks=[EarlyStoppingCallback(options.patience)],
    )


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


def _predict(regressor: LengthRegressor, maker: InputMaker, rows: Rows) -> Tensor:
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


def _stretch(regressor: LengthRegressor, log_quantiles: Tensor, validation: Rows) -> None:
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
        provenance: dict[str, Any] = json.loads((data / "provenance.json").read_text())
    except FileNotFoundError:
        return str(data.name)
    except ValueError as error:
        raise DataError(f"{data / 'provenance.json'} cannot be read: {error}") from error
    return str(provenance.get("source", data.name))


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
    add("--layers", type=int, default=0, help="keep the first so many layers; 0 keeps all")
    add("--window", type=int, default=128, help="tokens read of a request; costs time in serving")
    add("--tail", type=int, default=32, help="of them from the end, where a text is too long")
    add("--context-tokens", type=int, default=24, help="most tokens read of earlier messages")
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
