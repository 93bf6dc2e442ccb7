"""Random requests: of all sizes, with and without goals, from patient and impatient clients; and
bodies that make no sense. Pure."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

TOKEN_IDS = range(1_000, 30_000)
LARGEST_PROMPT = 3_000
LARGEST_OUTPUT = 120
SHARE_NONSENSE = 0.06
SHARE_LEAVING = 0.08
LONGEST_PATIENCE_S = 3.0
NESTING = 50_000
WORDS = ("which", "star", "stood", "over", "the", "mast", "when", "tides", "turned", "north")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one client sends."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    num_output_tokens: int | None = None
    """What a whole answer must have; None where that is the engine's choice."""
    leaves_after_s: float | None = None
    """The client goes away if it has no answer by then."""
    is_nonsense: bool = False
    """Must be refused with a 4xx."""


def draw(model: str, rng: random.Random) -> Question:
    """One request."""
    if rng.random() < SHARE_NONSENSE:
        return _nonsense(model, rng)
    body: dict[str, Any] = {"model": model, "stream": rng.random() < 0.7}
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    if rng.random() < 0.3:
        body["user"] = f"user-{rng.randrange(5)}"
    output = rng.randint(1, LARGEST_OUTPUT)
    exact = rng.random() < 0.7
    if exact:
        body["ignore_eos"] = True
    is_leaving = rng.random() < SHARE_LEAVING
    return Question(
        path=_fill_prompt(body, output, rng),
        body=json.dumps(body).encode(),
        headers=_headers(rng),
        num_output_tokens=output if exact else None,
        leaves_after_s=rng.uniform(0.0, LONGEST_PATIENCE_S) if is_leaving else None,
    )


def _fill_prompt(body: dict[str, Any], output: int, rng: random.Random) -> str:
    """Mostly short ones, some with a beginning that others share; returns the path."""
    if rng.random() < 0.5:
        words = rng.choices(WORDS, k=int(rng.lognormvariate(3.5, 1.0)) % 1_000 + 1)
        body["messages"] = [{"role": "user", "content": " ".join(words)}]
        body["max_completion_tokens"] = output
        return "/v1/chat/completions"
    size = rng.randint(1_200, LARGEST_PROMPT) if rng.random() < 0.15 else rng.randint(1, 600)
    shared = random.Random(rng.randrange(3)).choices(TOKEN_IDS, k=size // 2)
    body["prompt"] = shared + rng.choices(TOKEN_IDS, k=size - len(shared))
    body["max_tokens"] = output
    return "/v1/completions"


def _headers(rng: random.Random) -> dict[str, str]:
    headers = {}
    if rng.random() < 0.3:
        headers["x-slo-ttft-ms"] = str(rng.choice((20, 500, 2_000, 20_000)))
    if rng.random() < 0.15:
        headers["x-llm-d-slo-tpot-ms"] = str(rng.choice((10, 40, 100)))
    if rng.random() < 0.3:
        headers["x-astrolabe-priority"] = str(rng.randint(-2, 2))
    if rng.random() < 0.3:
        headers["x-session-id"] = f"session-{rng.randrange(20)}"
    return headers


def _nonsense(model: str, rng: random.Random) -> Question:
    chat, completion = "/v1/chat/completions", "/v1/completions"
    user = {"role": "user", "content": "x"}
    path, body = rng.choice(
        (
            (completion, b"{"),
            (completion, b""),
            (completion, b"\xff\xfe\x00"),
            (completion, b"[1, 2]"),
            (completion, b'{"prompt":' + b"[" * NESTING),
            (completion, {"model": model}),
            (completion, {"model": model, "prompt": {"text": "x"}}),
            (completion, {"model": model, "prompt": "x", "max_tokens": -1}),
            (completion, {"model": model, "prompt": "x", "max_tokens": "many"}),
            (completion, {"model": model, "prompt": "x", "n": 0}),
            (completion, {"model": model, "prompt": [1] * 5_000}),
            (completion, {"model": "no-such-model", "prompt": "x"}),
            (chat, {"model": model, "messages": []}),
            (chat, {"model": model, "messages": "hello"}),
            (chat, {"model": model, "messages": [user], "priority": "high"}),
            ("/v1/no-such-path", {"model": model}),
        )
    )
    wrong = {"x-slo-ttft-ms": "soon"} if rng.random() < 0.1 else {}
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Question(path=path, body=raw, headers=wrong, is_nonsense=True)
