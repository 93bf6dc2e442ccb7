"""Lengths of the arXiv summarisation set: an article to read, its abstract to write.

Sources: armancohan/long-summarization (``article_text``, ``abstract_text``: lists of sentences) and
its copies with ``article`` and ``abstract`` as texts; JSON lines. Lengths alone, as Vidur has them,
are a CSV file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from exp.workloads.errors import TraceError
from exp.workloads.lengths_file import Lengths, read_lengths
from exp.workloads.text_tokens import count_tokens


class _Paper(msgspec.Struct):
    article: str = ""
    abstract: str = ""
    article_text: list[str] = []
    abstract_text: list[str] = []

    def texts(self) -> list[str]:
        """Article and abstract, the latter without its marks of sentences."""
        abstract = self.abstract or " ".join(self.abstract_text)
        for mark in ("<S>", "</S>"):
            abstract = abstract.replace(mark, " ")
        return [self.article or " ".join(self.article_text), abstract.strip()]


def read_arxiv(path: Path, tokenizer: str | None) -> Iterator[Lengths]:
    """The lengths, read as a stream; papers without an article or an abstract are left out.

    Raises:
        TraceError: the file cannot be read, or a line is no such paper; names line and key.
        WorkloadError: there is no such tokenizer.
    """
    if path.suffix == ".csv":
        yield from read_lengths(path)
        return
    decoder = msgspec.json.Decoder(_Paper)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                texts = _texts(decoder, line, f"{path}, line {number}")
                if all(texts):
                    num_prompt_tokens, num_output_tokens = count_tokens(texts, tokenizer)
                    yield Lengths(None, num_prompt_tokens, num_output_tokens)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error


def _texts(decoder: msgspec.json.Decoder[_Paper], line: bytes, where: str) -> list[str]:
    try:
        return decoder.decode(line).texts()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{where}: {error}") from error
