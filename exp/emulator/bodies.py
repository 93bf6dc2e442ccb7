"""Request bodies of the OpenAI API, checked as vLLM 0.32 checks them.

Fields that do not change what an engine has to do (temperature and such) are ignored.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from exp.emulator.errors import BadRequestError
from exp.emulator.tokens import Encoder, count_tokens, pack_ids

DEFAULT_COMPLETION_TOKENS = 16


class StreamOptions(msgspec.Struct):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ExtraArguments(msgspec.Struct):
    """What vLLM hands to plug-ins unread; this one is for experiments."""

    answer_ids: list[int] = []
    """Tokens that the answer has unless it is cut; nobody before the engine need look at them."""


class GenerationBody(msgspec.Struct, kw_only=True):
    """Fields that completions and chats have in common."""

    model: str | None = None
    max_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    priority: int = 0
    request_id: str | None = None
    vllm_xargs: ExtraArguments | None = None

    def stop_strings(self) -> list[str]:
        """The strings that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def answer(self) -> bytes:
        """The tokens of the answer, where the request tells them.

        Raises:
            BadRequestError: one is no id.
        """
        try:
            return pack_ids(self.vllm_xargs.answer_ids) if self.vllm_xargs else b""
        except OverflowError as error:
            raise BadRequestError("answer_ids must be token ids", "vllm_xargs") from error

    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(GenerationBody, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[Any] | None = None

    def token_limit(self) -> int | None:
        """The most output tokens that were asked for."""
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    def encode_prompt(self, encoder: Encoder) -> bytes:
        """The prompt's tokens."""
        prompt = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        if isinstance(prompt, str):
            return encoder.encode(prompt)
        if not prompt:
            raise BadRequestError("Either prompt or prompt_embeds must be provided", "prompt")
        try:
            return pack_ids(prompt)
        except (TypeError, OverflowError) as error:
            raise BadRequestError(
                "prompt must be a string, one list of token ids, or a list with one of these",
                "prompt",
            ) from error


class ContentPart(msgspec.Struct):
    """One part of a message; parts without text count nothing here."""

    type: str
    text: str = ""


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str | list[ContentPart] | None = None

    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(GenerationBody, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: int | None = None

    def token_limit(self) -> int | None:
        """The most output tokens that were asked for; None is as many as fit."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    def encode_prompt(self, encoder: Encoder) -> bytes:
        """The tokens of the messages in the ChatML template."""
        turns = (f"<|im_start|>{m.role}\n{m.text()}<|im_end|>\n" for m in self.messages)
        return encoder.encode("".join(turns) + "<|im_start|>assistant\n")


Body = TypeVar("Body", bound=GenerationBody)


def parse_body(raw: bytes, body_type: type[Body]) -> Body:
    """Decode and check a body.

    Raises:
        BadRequestError: it is not JSON, or a field has a wrong type or value.
    """
    try:
        body = msgspec.json.decode(raw, type=body_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"Invalid request body: {error}") from error
    if body.n is not None and body.n != 1:
        raise BadRequestError(f"n must be 1, got {body.n}.", "n")
    if body.stream_options is not None and not body.stream:
        raise BadRequestError(
            "Stream options can only be defined when `stream=True`.", "stream_options"
        )
    if any(not string for string in body.stop_strings()):
        raise BadRequestError("stop cannot contain an empty string.", "stop")
    return body


def max_output_tokens(limit: int | None, tokens: bytes, max_model_len: int) -> int:
    """How many tokens the answer may have.

    Raises:
        BadRequestError: ``limit`` is below 1, or the prompt leaves no room for one token.
    """
    num_prompt_tokens = count_tokens(tokens)
    if limit is not None and limit < 1:
        raise BadRequestError(f"max_tokens must be at least 1, got {limit}.", "max_tokens")
    room = max_model_len - num_prompt_tokens
    if room < 1:
        raise BadRequestError(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt "
            f"contains {num_prompt_tokens} input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt.",
            "input_tokens",
        )
    return room if limit is None else min(limit, room)
