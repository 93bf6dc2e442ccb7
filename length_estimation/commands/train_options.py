"""The options of ``python -m length_estimation train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from length_estimation.commands import defaults


def train_parser() -> argparse.ArgumentParser:
    """The parser; what is not given is None where ``defaults`` fill it in."""
    parser = argparse.ArgumentParser(
        prog="python -m length_estimation train",
        description="Fine-tune an encoder to predict the distribution of output lengths. Writes a "
        "model folder that `global_scheduler --length-estimator DIR` serves. Paths are from the "
        "working directory.",
        epilog="example: python -m length_estimation train --data data/sharegpt --out models/mine",
    )
    _add_run(parser)
    _add_model(parser)
    _add_training(parser)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        help=f"what `length_estimation sample` has made (default {defaults.DATA}, made when it is "
        "not there)",
    )
    add("--out", type=Path, help=f"model folder to write (default {defaults.MODEL})")
    add(
        "--name",
        default="lengths",
        help="the model's name, in decisions and metrics (default %(default)s)",
    )
    again = parser.add_mutually_exclusive_group().add_argument
    again("--resume", action="store_true", help="go on from the last checkpoint of the same run")
    again("--force", action="store_true", help="train anew, over what an earlier run has left")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--base-model",
        help="minilm (needs no hub), scratch (a small RoBERTa), a folder or a hub's id such as "
        f"roberta-base (default {defaults.BASE_MODEL})",
    )
    add(
        "--layers",
        type=int,
        default=3,
        help="keep the first so many layers; 0 keeps all (default %(default)s)",
    )
    add(
        "--window",
        type=int,
        default=48,
        help="tokens read of a request; costs time in serving (default %(default)s)",
    )
    add(
        "--tail",
        type=int,
        default=12,
        help="of them from the end, where a text is too long (default %(default)s)",
    )
    add(
        "--context-tokens",
        type=int,
        default=16,
        help="most tokens read of earlier messages (default %(default)s)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--epochs",
        type=float,
        default=3.0,
        help="passes over the data at most (default %(default)s)",
    )
    add("--batch-size", type=int, default=64, help="examples a step (default %(default)s)")
    add(
        "--learning-rate",
        type=float,
        default=2e-4,
        help="of the encoder; ten times for the head (default %(default)s)",
    )
    add("--dropout", type=float, default=0.1, help="in encoder and head (default %(default)s)")
    add(
        "--max-examples",
        type=int,
        help="train on so many, drawn at random; 0: all, as the shipped model "
        f"(default {defaults.MAX_EXAMPLES})",
    )
    add(
        "--patience",
        type=int,
        default=3,
        help="half epochs without gain before training stops (default %(default)s)",
    )
    add(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="auto (default): bf16 on GPUs that have it, fp32 on CPUs, though some gain from bf16",
    )
    add("--seed", type=int, default=0, help="of sampling, weights and order (default %(default)s)")
