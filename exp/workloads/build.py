"""The requests of a case: what a ``WorkloadSpec`` says, at a rate, for a seed.

The same seed has the same requests at every rate, only closer together or further apart.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from exp.study.case import Arrivals, WorkloadSpec
from exp.workloads.arrivals import drawn_arrivals_s
from exp.workloads.arxiv import read_arxiv
from exp.workloads.contents import parse_span
from exp.workloads.conversations import conversation_requests
from exp.workloads.errors import TraceError, WorkloadError
from exp.workloads.lengths_file import AZURE, BURSTGPT, Lengths, read_lengths
from exp.workloads.mixed import LONG, SHORT
from exp.workloads.mooncake import block_hashes, read_mooncake
from exp.workloads.request import WorkloadRequest
from exp.workloads.sharegpt_texts import Chat, first_chats

LONG_ABOVE_TOKENS = 1_500
"""Prompt and answer of a request of a trace, above which it is reported as long."""
LONG_PROMPT_TOKENS = 1_000
"""From which on a chat of ``mixed`` is reported as long, too."""
MOST_ROWS = 100_000
"""Of a trace that fit, read from its beginning: enough to draw from; whole ones are millions."""
READERS: Mapping[str, Callable[[Path, str | None], Iterator[Lengths]]] = {
    "lengths": lambda path, _: read_lengths(path),
    "arxiv": read_arxiv,
    "azure": lambda path, _: read_lengths(path, AZURE),
    "burstgpt": lambda path, _: read_lengths(path, BURSTGPT),
    "mooncake": lambda path, _: read_mooncake(path),
}
"""Of a path and a tokenizer."""
IN_ORDER = ("azure", "burstgpt", "mooncake")
"""Traces of one service: what follows upon what is part of them."""


class Untimed(NamedTuple):
    """A request but for its time."""

    num_prompt_tokens: int
    num_output_tokens: int
    request_class: str = SHORT
    prompt: str | None = None
    block_hashes: tuple[int, ...] = ()


def build_workload(spec: WorkloadSpec, rate_per_s: float, seed: int) -> list[WorkloadRequest]:
    """``spec.num_requests`` requests in order of arrival, at this mean rate.

    Raises:
        WorkloadError: the specification cannot be met; names what is wrong.
    """
    try:
        if spec.source == "conversations" and spec.arrivals.kind != "trace":
            return conversation_requests(spec, rate_per_s, seed)
        return [
            WorkloadRequest(request_id=f"{spec.source}-{index:06d}", at_s=at_s, **content._asdict())
            for index, (at_s, content) in enumerate(_timed(spec, rate_per_s, seed))
        ]
    except ValueError as error:
        raise WorkloadError(f"workload {spec.source}: {error}") from error


def _timed(spec: WorkloadSpec, rate_per_s: float, seed: int) -> Iterable[tuple[float, Untimed]]:
    if spec.arrivals.kind == "trace":
        return _as_recorded(spec, rate_per_s, seed)
    if spec.source == "mixed" and spec.arrivals.kind == "on_off":
        steady = Arrivals(kind="gamma", burstiness=spec.arrivals.burstiness)
        merged = heapq.merge(
            _stream(_short(spec, seed), steady, rate_per_s * (1 - spec.long_share), seed, SHORT),
            _stream(_long(spec, seed), spec.arrivals, rate_per_s * spec.long_share, seed, LONG),
            key=lambda timed: timed[0],
        )
        return itertools.islice(merged, spec.num_requests)
    stream = _stream(_contents(spec, seed), spec.arrivals, rate_per_s, seed, "")
    timed = list(itertools.islice(stream, spec.num_requests))
    if spec.arrivals.kind not in ("poisson", "gamma"):
        return timed
    # As vLLM's benchmark does: a seed must not decide how high the rate turns out to be.
    scale = spec.num_requests / rate_per_s / timed[-1][0]
    return [(at_s * scale, content) for at_s, content in timed]


def _stream(
    contents: Iterator[Untimed], arrivals: Arrivals, rate_per_s: float, seed: int, name: str
) -> Iterator[tuple[float, Untimed]]:
    if rate_per_s <= 0:
        return iter(())
    times_s = drawn_arrivals_s(arrivals, rate_per_s, _rng(seed, "arrivals", name))
    return zip(times_s, contents, strict=False)


def _contents(spec: WorkloadSpec, seed: int) -> Iterator[Untimed]:
    """Endless."""
    if spec.source == "synthetic":
        return _drawn(spec, SHORT, _rng(seed, "contents"))
    if spec.source == "sharegpt":
        return _chats(spec, _rng(seed, "contents"))
    if spec.source == "mixed":
        return _tossed(_short(spec, seed), _long(spec, seed), spec.long_share, _rng(seed, "class"))
    rows, rng = _rows(spec), _rng(seed, "contents")
    if spec.source in IN_ORDER:
        first = rng.randrange(len(rows))
        return map(_content, itertools.cycle([*rows[first:], *rows[:first]]))
    return map(_content, itertools.cycle(rng.sample(rows, len(rows))))


def _short(spec: WorkloadSpec, seed: int) -> Iterator[Untimed]:
    """Of ``mixed``."""
    source = "sharegpt" if spec.path is None else "lengths"
    contents = _contents(msgspec.structs.replace(spec, source=source), seed)
    return (content._replace(request_class=_class_of(content)) for content in contents)


def _class_of(content: Untimed) -> str:
    """By what delays others: whoever calls a chat with a book in it short would wait behind it."""
    return LONG if content.num_prompt_tokens >= LONG_PROMPT_TOKENS else SHORT


def _long(spec: WorkloadSpec, seed: int) -> Iterator[Untimed]:
    """Of ``mixed``."""
    return _drawn(spec, LONG, _rng(seed, "contents", LONG))


def _tossed(
    short: Iterator[Untimed], long: Iterator[Untimed], long_share: float, rng: random.Random
) -> Iterator[Untimed]:
    while True:
        yield next(long if rng.random() < long_share else short)


def _drawn(spec: WorkloadSpec, request_class: str, rng: random.Random) -> Iterator[Untimed]:
    prompt, output = parse_span(spec.prompt_tokens), parse_span(spec.output_tokens)
    if prompt.high + output.high > spec.max_model_len:
        raise ValueError(
            f"prompts of {prompt.high} and answers of {output.high} tokens do not fit into"
            f" {spec.max_model_len}"
        )
    while True:
        yield Untimed(prompt.draw(rng), output.draw(rng), request_class)


def _chats(spec: WorkloadSpec, rng: random.Random) -> Iterator[Untimed]:
    """Those that the length estimator has not seen come first."""
    chats = [chat for chat in first_chats(spec.tokenizer) if _size(chat) <= spec.max_model_len]
    if not chats:
        raise ValueError(f"nothing of ShareGPT fits into {spec.max_model_len} tokens")
    shuffled = rng.sample(chats, len(chats))
    for chat in itertools.cycle(sorted(shuffled, key=lambda one: not one.is_unseen)):
        yield Untimed(chat.num_prompt_tokens, chat.num_output_tokens, prompt=chat.prompt)


def _as_recorded(
    spec: WorkloadSpec, rate_per_s: float, seed: int
) -> Iterator[tuple[float, Untimed]]:
    """A stretch of the trace that begins where the seed draws, its times scaled to the rate."""
    rows = _rows(spec)
    num_spare = len(rows) - spec.num_requests
    if num_spare < 0:
        raise TraceError(f"{spec.path}: {len(rows)} of its requests fit, not {spec.num_requests}")
    first = _rng(seed, "contents").randint(0, num_spare)
    rows = rows[first : first + spec.num_requests]
    times_s = [row.at_s for row in rows if row.at_s is not None]
    if len(times_s) < len(rows):
        raise TraceError(f"{spec.path} tells no times of arrival")
    span_s = times_s[-1] - times_s[0]
    if span_s <= 0:
        raise TraceError(f"{spec.path}: its requests arrive all at once, at {times_s[0]:g} s")
    scale = (len(rows) - 1) / rate_per_s / span_s
    for at_s, row in zip(times_s, rows, strict=True):
        yield (at_s - times_s[0]) * scale, _content(row)


def _rows(spec: WorkloadSpec) -> list[Lengths]:
    """Of the file that the specification names, those that fit, in order of arrival."""
    if spec.source not in READERS:
        raise ValueError("has no recorded times of arrival")
    if spec.path is None:
        raise ValueError("needs the path of a file")
    path = Path(spec.path)
    try:
        changed_ns = path.stat().st_mtime_ns
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    return _read_rows(spec.source, path, changed_ns, spec.max_model_len, spec.tokenizer)


@lru_cache(maxsize=4)
def _read_rows(
    source: str, path: Path, changed_ns: int, max_model_len: int, tokenizer: str | None
) -> list[Lengths]:
    """Once a process, as studies build workloads of the same file again and again."""
    fitting = (row for row in READERS[source](path, tokenizer) if _size(row) <= max_model_len)
    rows = list(itertools.islice(fitting, MOST_ROWS))
    if not rows:
        raise TraceError(f"{path}: no request in it fits into {max_model_len} tokens")
    return sorted(rows, key=lambda row: row.at_s or 0.0)


def _size(row: Lengths | Chat) -> int:
    return row.num_prompt_tokens + row.num_output_tokens


def _content(row: Lengths) -> Untimed:
    return Untimed(
        row.num_prompt_tokens,
        row.num_output_tokens,
        LONG if _size(row) > LONG_ABOVE_TOKENS else SHORT,
        block_hashes=block_hashes(row),
    )


def _rng(seed: int, *words: str) -> random.Random:
    return random.Random(" ".join((str(seed), *words)))
