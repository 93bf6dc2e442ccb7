"""Traces: JSON lines, a header first, then a line for each request in the order of arrival."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from exp.emulator.tokens import TOKEN_BYTES
from exp.workloads.errors import TraceError
from exp.workloads.request import WorkloadRequest

Line = TypeVar("Line")
Positive = Annotated[int, msgspec.Meta(ge=1)]
PositiveMs = Annotated[float, msgspec.Meta(gt=0)]


class TraceHeader(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The first line: where the requests come from."""

    format: Literal["astrolabe-trace-1"] = "astrolabe-trace-1"
    seed: int | None = None
    parameters: dict[str, Any] = {}


class TracedRequest(
    msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One request: when it is sent, and what it asks for."""

    at_s: Annotated[float, msgspec.Meta(ge=0)]
    """From the start of the trace."""
    request_class: str = msgspec.field(name="class")
    """``short`` or ``long``, or any other name to report it under."""
    max_tokens: Positive
    prompt: str | None = None
    """Sent as a chat's only message."""
    num_prompt_tokens: Positive | None = None
    """Instead of ``prompt``: so many token ids, drawn by the sender."""
    block_hashes: tuple[int, ...] = ()
    """Of the first ``BLOCK_TOKENS`` of these ids and of the answer's, of the next ones, and so on:
    equal hashes make equal ids."""
    ignore_eos: bool = False
    """The answer has exactly ``max_tokens``, from an emulated engine as from vLLM."""
    answer_tokens: Positive | None = None
    """The answer of an emulated engine ends by itself after so many; its ids go on where those of
    the prompt end. It is sent as an extra argument, which vLLM and the gateway leave alone."""
    user: str | None = None
    session: str | None = None
    priority: int | None = None
    """vLLM's: lower is earlier."""
    slo_ttft_ms: PositiveMs | None = None
    slo_tpot_ms: PositiveMs | None = None

    def __post_init__(self) -> None:
        """Refuse what is no request."""
        if (self.prompt is None) == (self.num_prompt_tokens is None):
            raise ValueError("give either `prompt` or `num_prompt_tokens`")

    @property
    def about_prompt_tokens(self) -> int:
        """Exact where token ids are sent."""
        if self.prompt is None:
            return self.num_prompt_tokens or 0
        return -(-len(self.prompt.encode()) // TOKEN_BYTES)


def traced(
    request: WorkloadRequest,
    max_model_len: int,
    *,
    as_text: bool = False,
    is_emulated: bool = False,
) -> TracedRequest:
    """A workload's request as it is sent: its answer will have the length that it should have.

    vLLM is told that length by ``max_tokens``, which the gateway sees; an emulated engine in a
    way that it does not see.

    Args:
        as_text: send the text of the prompt where it is known, instead of as many token ids.
    """
    most = request.max_tokens or max_model_len - request.num_prompt_tokens
    is_text = as_text and request.prompt is not None
    return TracedRequest(
        at_s=request.at_s,
        request_class=request.request_class,
        max_tokens=most if is_emulated else request.num_output_tokens,
        prompt=request.prompt if is_text else None,
        num_prompt_tokens=None if is_text else request.num_prompt_tokens,
        block_hashes=() if is_text else request.block_hashes,
        ignore_eos=not is_emulated,
        answer_tokens=request.num_output_tokens if is_emulated else None,
        user=request.user or None,
        session=request.session or None,
        priority=request.priority or None,
        slo_ttft_ms=request.slo_ttft_ms,
        slo_tpot_ms=request.slo_tpot_ms,
    )


def write_trace(path: Path, header: TraceHeader, requests: Iterable[TracedRequest]) -> None:
    """Write the lines one by one.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as output:
        for line in (header, *requests):
            output.write(msgspec.json.encode(line) + b"\n")


def read_trace(path: Path) -> tuple[TraceHeader, list[TracedRequest]]:
    """Header and requests, the latter in the order of arrival.

    Raises:
        TraceError: the file cannot be read, or a line is not what it should be.
    """
    try:
        with path.open("rb") as file:
            lines = enumerate(file, start=1)
            first = next(lines, None)
            if first is None:
                raise TraceError(f"{path} is empty: a trace begins with a header")
            header = _decode(path, *first, TraceHeader)
            requests = [_decode(path, *line, TracedRequest) for line in lines if line[1].strip()]
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    return header, sorted(requests, key=lambda one: one.at_s)


def _decode(path: Path, number: int, line: bytes, as_type: type[Line]) -> Line:
    try:
        return msgspec.json.decode(line, type=as_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}, line {number}: {error}") from error
