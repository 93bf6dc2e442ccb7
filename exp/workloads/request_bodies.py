"""What is sent for a request of a trace: path, body and headers. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from exp.workloads.request import BLOCK_TOKENS
from exp.workloads.trace import TracedRequest

FIRST_TOKEN_ID, LAST_TOKEN_ID = 1_000, 30_000
"""Ordinary tokens in every vocabulary that is served."""
_FACTORS = tuple(random.Random(0).getrandbits(64) | 1 for _ in range(BLOCK_TOKENS))


def request_body(
    request: TracedRequest,
    model: str,
    rng: random.Random,
    *,
    are_chats: bool = True,
    salt: int = 0,
) -> tuple[str, bytes]:
    """The path and the body: a chat or a completion for a text, a completion for token ids.

    With another ``salt`` block hashes stand for other ids, which no earlier run has left in
    a cache.
    """
    body: dict[str, Any] = {
        "model": model,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.ignore_eos:
        body["ignore_eos"] = True
    if request.user is not None:
        body["user"] = request.user
    if request.priority is not None:
        body["priority"] = request.priority
    num_prompt_tokens = request.num_prompt_tokens or 0
    hashes = [one ^ salt for one in request.block_hashes]
    ids = token_ids(hashes, num_prompt_tokens + (request.answer_tokens or 0), rng)
    if request.answer_tokens is not None:
        body["vllm_xargs"] = {"answer_ids": ids[num_prompt_tokens:]}
    if request.prompt is not None and are_chats:
        body["messages"] = [{"role": "user", "content": request.prompt}]
        body["max_completion_tokens"] = request.max_tokens
        return "/v1/chat/completions", msgspec.json.encode(body)
    body["prompt"] = ids[:num_prompt_tokens] if request.prompt is None else request.prompt
    body["max_tokens"] = request.max_tokens
    return "/v1/completions", msgspec.json.encode(body)


def token_ids(block_hashes: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """So many ids: first those that the hashes stand for, then random ones."""
    ids = list(chain.from_iterable(_block_ids(one) for one in block_hashes))[:count]
    return ids + rng.choices(range(FIRST_TOKEN_ID, LAST_TOKEN_ID), k=count - len(ids))


def _block_ids(block_hash: int) -> list[int]:
    """Ids of a block, equal for equal hashes."""
    span = LAST_TOKEN_ID - FIRST_TOKEN_ID
    return [FIRST_TOKEN_ID + ((block_hash + 1) * factor >> 40) % span for factor in _FACTORS]


def request_headers(request: TracedRequest, api_key: str | None, request_id: str) -> dict[str, str]:
    """What a request says beside its body."""
    given = {
        "authorization": f"Bearer {api_key}" if api_key else None,
        "x-session-id": request.session,
        "x-slo-ttft-ms": request.slo_ttft_ms,
        "x-slo-tpot-ms": request.slo_tpot_ms,
    }
    named = {name: str(value) for name, value in given.items() if value is not None}
    return {"x-request-id": request_id, **named}
