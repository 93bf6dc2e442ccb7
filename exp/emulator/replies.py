"""The JSON of answers, whole or as server-sent events, as vLLM 0.32 words it."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import msgspec

from exp.emulator.generation import Generation

_encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"

_TEXT_MARK = "\x00"


class Reply(abc.ABC):
    """Words one answer. Subclasses say where the text stands."""

    object: str
    chunk_object: str

    def __init__(self, reply_id: str, model: str, created: int, generation: Generation) -> None:
        self._generation = generation
        self._head: dict[str, Any] = {"id": reply_id, "created": created, "model": model}
        template = self._chunk(self._choice(_TEXT_MARK, None))
        self._before_text, _, self._after_text = template.rpartition(_encode(_TEXT_MARK))

    def whole(self) -> bytes:
        """The answer to a request without streaming."""
        generation = self._generation
        choice = self._whole_choice(generation.answer.text(generation.num_tokens))
        body = {**self._head, "object": self.object, "choices": [choice], "usage": self._usage()}
        return _encode(body)

    def opening(self) -> bytes:
        """What a stream starts with at its first token."""
        return b""

    def chunks(self, start: int, stop: int) -> bytes:
        """One event for each of the tokens ``start`` to ``stop - 1``."""
        return b"".join(self._token_chunks(start, stop))

    def usage_chunk(self) -> bytes:
        """The event before the last that tells the token counts."""
        return self._event({"choices": [], "usage": self._usage()})

    def _token_chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Chunks differ only in their text, so the rest is encoded once."""
        generation = self._generation
        is_finished = generation.is_finished
        for index in range(start, stop):
            text = generation.answer.delta(index)
            if is_finished and index == generation.num_tokens - 1:
                yield self._chunk(self._choice(text, generation.seq.finish_reason))
            else:
                yield self._before_text + _encode(text) + self._after_text

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._event({"choices": [choice]})

    def _event(self, fields: dict[str, Any]) -> bytes:
        return b"data: " + _encode({**self._head, "object": self.chunk_object, **fields}) + b"\n\n"

    def _usage(self) -> dict[str, Any]:
        """As vLLM has it with ``--enable-prompt-tokens-details``."""
        seq, num_output = self._generation.seq, self._generation.num_tokens
        num_prompt = seq.num_prompt_tokens
        return {
            "prompt_tokens": num_prompt,
            "total_tokens": num_prompt + num_output,
            "completion_tokens": num_output,
            "prompt_tokens_details": {"cached_tokens": seq.num_cached_tokens},
        }

    def _end_fields(self, finish_reason: str | None) -> dict[str, Any]:
        stopped = finish_reason == "stop"
        stop_reason = self._generation.answer.stop_string if stopped else None
        return {"finish_reason": finish_reason, "stop_reason": stop_reason}

    @abc.abstractmethod
    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        """One event's choice."""

    @abc.abstractmethod
    def _whole_choice(self, text: str) -> dict[str, Any]:
        """The choice of an unstreamed answer."""


class CompletionReply(Reply):
    """``/v1/completions``."""

    object = chunk_object = "text_completion"

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, **self._end_fields(finish_reason)}

    def _whole_choice(self, text: str) -> dict[str, Any]:
        return self._choice(text, self._generation.seq.finish_reason)


class ChatReply(Reply):
    """``/v1/chat/completions``."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> bytes:
        """The chunk that names the role."""
        delta = {"role": "assistant", "content": ""}
        fields = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._chunk(fields)

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        return choice if finish_reason is None else {**choice, **self._end_fields(finish_reason)}

    def _whole_choice(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        end = self._end_fields(self._generation.seq.finish_reason)
        return {"index": 0, "message": message, "logprobs": None, **end}
