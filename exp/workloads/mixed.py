"""Mixed traces: short and long requests, either through ON and OFF phases or as a file has them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exp.workloads.arrivals import Phases, Rates, arrivals_s
from exp.workloads.contents import Bounds, contents
from exp.workloads.errors import TraceError
from exp.workloads.lengths_file import ARRIVAL_COLUMN, read_lengths
from exp.workloads.trace import TracedRequest

SHORT, LONG = "short", "long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The requests of one class."""

    rates: Rates
    source: str
    """See ``contents``."""
    bounds: Bounds
    burstiness: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedLoad:
    """What ``mixed_trace`` makes a trace of."""

    duration_s: float
    phases: Phases
    streams: Mapping[str, Stream]
    """By class."""
    num_users: int = 0
    """Each request is of one of so many users; 0 names none."""


def mixed_trace(load: MixedLoad, seed: int) -> list[TracedRequest]:
    """The requests in order. A class's do not depend on what the other one does.

    Raises:
        WorkloadError, ValueError: as ``contents``.
    """
    made = [
        request
        for name, stream in load.streams.items()
        for request in _of_class(name, stream, load, seed)
    ]
    return sorted(made, key=lambda one: one.at_s)


def _of_class(name: str, stream: Stream, load: MixedLoad, seed: int) -> Iterator[TracedRequest]:
    times = arrivals_s(
        load.phases.stretches(stream.rates, load.duration_s),
        stream.burstiness,
        random.Random(f"{seed} {name} arrivals"),
    )
    asked = contents(stream.source, stream.bounds, random.Random(f"{seed} {name} contents"))
    users = random.Random(f"{seed} {name} users")
    for at_s in times:
        content = next(asked)
        yield TracedRequest(
            at_s=round(at_s, 6),
            request_class=name,
            prompt=content.prompt,
            num_prompt_tokens=content.num_prompt_tokens,
            max_tokens=content.max_tokens,
            ignore_eos=content.ignore_eos,
            user=f"user-{users.randrange(load.num_users)}" if load.num_users else None,
        )


def recorded_trace(
    path: Path, *, from_s: float, duration_s: float, long_above_tokens: int, max_model_len: int
) -> Iterator[TracedRequest]:
    """A stretch of a file that knows its arrivals; what does not fit the model is left out.

    Raises:
        TraceError: the file cannot be used, or knows no arrivals.
    """
    for row in read_lengths(path):
        if row.at_s is None:
            raise TraceError(f"{path}, line 1: no column {ARRIVAL_COLUMN} to replay")
        size = row.num_prompt_tokens + row.num_output_tokens
        if size <= max_model_len and from_s <= row.at_s < from_s + duration_s:
            yield TracedRequest(
                at_s=round(row.at_s - from_s, 6),
                request_class=LONG if size > long_above_tokens else SHORT,
                num_prompt_tokens=row.num_prompt_tokens,
                max_tokens=row.num_output_tokens,
                ignore_eos=True,
            )
