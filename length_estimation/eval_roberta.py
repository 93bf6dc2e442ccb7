"""``python -m length_estimation eval``: how good a trained estimator is, next to simple methods.

Prints tables and, as the last line, JSON. The model runs as the gateway runs it. With
``--tag-data``, or as ``python -m length_estimation tag``, writes its predictions into a copy of the
data instead.
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

from length_estimation import sample
from length_estimation.answer_tokens import SMOLLM2, TokenizerError
from length_estimation.argument_types import at_least_1, true_or_false
from length_estimation.baselines import TooFewExamples, make_baselines
from length_estimation.conversations import SourceError
from length_estimation.data_sets import DataError, examples_of_rows, read_data_set, read_examples
from length_estimation.evaluation import Evaluation, Method, evaluate
from length_estimation.evaluation_report import draw, figures, tables
from length_estimation.examples import Example, prompts_sha256
from length_estimation.model_folder import DEFAULT_FOLDER, ModelFolderError
from length_estimation.online.errors import InferenceFailed
from length_estimation.served_model import ServedModel
from length_estimation.splits import limited
from length_estimation.tagging import ROWS, tag

DEFAULT_DATA = Path(".astrolabe/data/sharegpt")
"""Made when it is not there: ShareGPT, split as for Astrolabe's published figures."""
MODEL = "roberta"
LEARNT_SPLITS = ("train", "validation")
METHODS = (MODEL, *make_baselines([]))


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, or tag; 2 for options or data that cannot be used."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error("--figure needs matplotlib: pip install 'astrolabe-llm[analysis]'")
    try:
        model = ServedModel(options.model_folder)
        if options.data == DEFAULT_DATA and not options.data.exists():
            made = sample.main(["--source", sample.SHAREGPT, "--out", str(options.data)])
            if made != 0:
                return made
        if options.tag_data:
            return _tag(model, options)
        return _evaluate(model, options)
    except (
        DataError,
        InferenceFailed,
        ModelFolderError,
        OSError,
        SourceError,
        TokenizerError,
        TooFewExamples,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _tag(model: ServedModel, options: argparse.Namespace) -> int:
    data: Path = options.data
    suffix = ROWS if data.suffix == ROWS else ""
    out: Path = options.out or data.with_name(f"{data.name.removesuffix(suffix)}-tagged{suffix}")
    tag(model, data, out, tokenizer=options.tokenizer, replace=options.force)
    print(f"written to {out}")
    return 0


def _evaluate(model: ServedModel, options: argparse.Namespace) -> int:
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
        methods = _methods(model, options)
        found = _evaluate_all(methods, examples, levels)
    if options.figure:
        lengths = np.array([one.num_output_tokens for one in examples])
        draw(found, lengths, levels, options.figure)
    print(f"{MODEL} is {model.config.name!r} in {options.model_folder}.")
    print(f"Data: {len(examples)} examples of {options.data}, split {options.split}.")
    if methods.keys() != {MODEL}:
        print("Baselines learn from first turns of the splits train and validation.")
    print(_whether_unseen(unseen), end="\n\n")
    print(tables(found))
    print(json.dumps(_result(model, options, examples, unseen, found)))
    return 0


def _methods(model: ServedModel, options: argparse.Namespace) -> dict[str, Method]:
    """Those asked for, in the order of ``METHODS``, the baselines fitted."""
    names = [name for name in METHODS if name in options.methods]
    baselines = make_baselines(model.config.quantile_levels)
    if names == [MODEL]:
        return {MODEL: model}
    first_turns = _first_turns(options.data, leave_out=options.split)
    methods: dict[str, Method] = {}
    for name in tqdm(names, desc="fitting", unit="method", disable=None):
        if name != MODEL:
            baselines[name].fit(first_turns)
        methods[name] = model if name == MODEL else baselines[name]
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
        "unseen_in_training": unseen,
        **figures(found),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m length_estimation eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model-folder",
        type=Path,
        default=DEFAULT_FOLDER,
        help="as training exports it (default: the one that comes with Astrolabe)",
    )
    add(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        help=f"folder that `sample` made, or a {ROWS} file to tag (default: {DEFAULT_DATA}, made "
        "of ShareGPT when it is not there)",
    )
    add("--split", default="test", help="what to evaluate on (default test)")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all")
    add("--limit", type=at_least_1, help="evaluate on so many examples, drawn at random")
    add(
        "--figure", type=Path, metavar="FILE", help="draw calibration and medians; needs matplotlib"
    )
    add(
        "--tag-data",
        type=true_or_false,
        nargs="?",
        const=True,
        default=False,
        metavar="True",
        help="write predictions into a copy of the data; evaluate nothing",
    )
    add(
        "--out", type=Path, help="where the tagged copy goes (default: the data's name and -tagged)"
    )
    add("--force", action="store_true", help="replace --out if it exists")
    add(
        "--tokenizer",
        default=SMOLLM2,
        help=f"counts the prompts' tokens where a {ROWS} file to tag has none (default smollm2)",
    )
    return parser
