"""``python -m length_estimation train``: fine-tunes an encoder to predict output lengths."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import Trainer

from length_estimation.commands import defaults
from length_estimation.commands.installation import interpreter, require, typed
from length_estimation.commands.sample import make_default_data
from length_estimation.commands.train_options import train_parser
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
from length_estimation.model_folder import FORMAT, MINILM, SCRATCH, ModelConfig, TrainedOn
from length_estimation.pretrained import PretrainedError, load_encoder, new_encoder
from length_estimation.provenance import FILE_NAME, read_provenance
from length_estimation.regressor import QUANTILE_LEVELS, LengthRegressor, group_of
from length_estimation.spread import fit_stretch
from length_estimation.training_data import Rows, encode

TRACED_QUESTIONS = 4
"""Questions the exporter follows through the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run learns from and where it writes."""

    data: Path
    out: Path
    name: str
    resume: bool = False
    force: bool = False

    @property
    def checkpoints(self) -> Path:
        """The folder beside the model's."""
        return self.out.with_name(f"{self.out.name}-checkpoints")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, export, and say what was reached."""
    arguments = train_parser().parse_args(argv)
    defaults.take(
        arguments,
        {
            "data": defaults.DATA,
            "out": defaults.MODEL,
            "base_model": defaults.BASE_MODEL,
            "max_examples": defaults.MAX_EXAMPLES,
        },
    )
    require("accelerate")
    if arguments.base_model == MINILM:
        require("all_minilm_l6_v2")
    transformers.logging.set_verbosity_error()
    options = Options(**{name: getattr(arguments, name) for name in Options.__slots__})
    run = Run(**{name: getattr(arguments, name) for name in Run.__slots__})
    try:
        train(run, options)
    except (DataError, ExportError, PretrainedError, TrainingError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    _print_next(run)
    return 0


def train(run: Run, options: Options) -> ModelConfig:
    """Train and write the model folder.

    Raises:
        DataError, PretrainedError, TrainingError, ExportError: see there.
    """
    transformers.set_seed(options.seed)
    # First of all: what cannot be had is to be known before data are read.
    encoder = None if options.base_model == SCRATCH else load_encoder(options.base_model)
    prepare_checkpoints(run.checkpoints, options, resume=run.resume, force=run.force)
    make_default_data(run.data)
    examples, num_examples = _examples(run.data, options)
    encoder = encoder or new_encoder(one.text for one in examples["train"])
    maker = InputMaker(encoder.tokenizer, make_input_config(encoder, options, examples["train"]))
    rows = {split: encode(maker, found) for split, found in examples.items()}
    regressor = make_regressor(encoder, maker.config, rows["train"], options)
    trainer = make_trainer(regressor, maker, rows, run.checkpoints, options)
    started_s = time.perf_counter()
    trainer.train(resume_from_checkpoint=run.resume and has_checkpoint(run.checkpoints))
    took_s = time.perf_counter() - started_s
    # Mixed precision wraps the model's forward, which the exported graph must not have.
    regressor = trainer.accelerator.unwrap_model(regressor, keep_fp32_wrapper=False)
    _stretch(regressor, predict(regressor, maker, rows["validation"]), rows["validation"])
    config = ModelConfig(
        format=FORMAT,
        name=run.name,
        base_model=options.base_model,
        date=datetime.now(timezone.utc).date().isoformat(),
        quantile_levels=list(QUANTILE_LEVELS),
        inputs=maker.config,
        trained_on=TrainedOn(
            source=_source(run.data),
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
    config = export(regressor, encoder.tokenizer, config, sample, run.out, card)
    print(card)
    print(_size(len(examples["train"]), num_examples, took_s))
    return config


def _examples(data: Path, options: Options) -> tuple[dict[str, list[Example]], int]:
    """The examples of each split, and how many there are for training in all."""
    examples = {split: read_examples(data, split) for split in ("train", "validation", "test")}
    num_examples = len(examples["train"])
    if options.max_examples:
        order = np.random.default_rng(options.seed).permutation(num_examples)
        chosen = sorted(order[: options.max_examples].tolist())
        examples["train"] = [examples["train"][index] for index in chosen]
    return examples, num_examples


def _size(num_trained: int, num_examples: int, took_s: float) -> str:
    """What the model has seen, and what it would take to see all."""
    text = f"Trained on {num_trained:,} of {num_examples:,} examples in {took_s:.0f} s."
    if num_trained == num_examples:
        return text
    minutes = took_s * num_examples / num_trained / 60
    return f"{text} All of them: --max-examples 0 --force (about {minutes:.0f} minutes here)."


def _print_next(run: Run) -> None:
    """Where the model lies and what to do with it."""
    print(f"written to {run.out} (its training state, of use for --resume: {run.checkpoints})")
    options = "" if run.data == defaults.DATA else f" --data {run.data}"
    options += "" if run.out == defaults.MODEL else f" --model-folder {run.out}"
    print(f"next, to measure it and tag the data: {typed('eval')} --tag-data True{options}")
    print(f"to serve it: {interpreter()} -m global_scheduler --length-estimator {run.out} ...")


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
