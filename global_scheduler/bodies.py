"""The few fields of a generation request that routing needs; everything else passes unread."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from global_scheduler.errors import BadRequest
from wire.length import LengthQuestion
from wire.prediction import MAX_PRIORITY, MAX_TOKENS

MOST_ANSWERS = 16_384
"""To one prompt: vLLM refuses more (``VLLM_MAX_N_SEQUENCES``, vLLM 0.32)."""

_TokenId = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""As wide as messages between processes can hold; what is no token is for the engine to say."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    priority: int | None = None
    user: str | None = None


class _CompletionBody(_Body):
    prompt: str | list[_TokenId | str | list[_TokenId]] | None = None


_BodyType = TypeVar("_BodyType", bound=_Body)


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _ChatBody(_Body):
    messages: list[_Message] | None = None
    tools: msgspec.Raw = msgspec.Raw(b"")


LONGEST_USER = 256
MOST_BEGINNING = 256
"""Characters by which prompts that begin alike are told."""
MOST_CONTEXT_CHARACTERS = 16_000
"""No length estimator reads beyond so many characters of context."""


class Said(msgspec.Struct, frozen=True):
    """What a prompt tells about the length of its answer (see ``wire.length.LengthQuestion``)."""

    text: str
    context: str = ""
    earlier_answer_characters: tuple[int, ...] = ()
    opening: str = ""
    """The user's first message, which all requests of a conversation share."""


class GenerationRequest(msgspec.Struct, frozen=True):
    """A parsed completion or chat completion request."""

    model: str | None
    stream: bool
    texts: tuple[str, ...]
    """Prompt texts, to be counted in tokens."""
    num_given_tokens: int
    """Prompt tokens that came as token ids."""
    num_messages: int
    """Chat messages; 0 for a completion."""
    max_tokens: int | None
    priority: int
    user: str
    """Empty if the body names none."""
    num_sequences: int
    """What the engine makes of it: one, unless it has several prompts or asks for ``n`` answers."""
    said: Said
    prompt: str | tuple[int, ...] = ""
    """As one sequence: text (tools, roles and all) or token ids; empty if there are several."""
    beginning: str = ""
    """Its first characters, of a chat up to the end of the user's first message at most, so that it
    stays the same as a conversation goes on."""

    def length_question(self, model: str, num_prompt_tokens: int) -> LengthQuestion:
        """How long one answer will get."""
        return LengthQuestion(
            text=self.said.text,
            context=self.said.context,
            num_prompt_tokens=num_prompt_tokens,
            earlier_answer_characters=list(self.said.earlier_answer_characters),
            max_tokens=self.max_tokens,
            model=model,
        )


_completion_decoder = msgspec.json.Decoder(_CompletionBody)
_chat_decoder = msgspec.json.Decoder(_ChatBody)


def parse_completion(body: bytes) -> GenerationRequest:
    """Parse the body of ``/v1/completions``.

    Raises:
        BadRequest: the body is not JSON, or a field that routing reads has a wrong type or value.
    """
    parsed = _decode(_completion_decoder, body)
    if parsed.prompt is None:
        raise BadRequest("you must provide a prompt", param="prompt")
    given = parsed.prompt
    prompt: list[int | str | list[int]] = [given] if isinstance(given, str) else given
    texts = tuple(item for item in prompt if isinstance(item, str))
    num_ids = sum(
        len(item) if isinstance(item, list) else 1 for item in prompt if not isinstance(item, str)
    )
    num_lists = sum(isinstance(item, list) for item in prompt)
    text = max(texts, key=len, default="")
    only = _only_one(prompt)
    return _request(
        parsed,
        texts,
        num_given_tokens=num_ids,
        num_messages=0,
        num_prompts=max(1, len(texts) + num_lists),
        said=Said(text, opening=text),
        prompt=only,
        beginning=str(only[:MOST_BEGINNING]) if only else "",
    )


def parse_chat(body: bytes) -> GenerationRequest:
    """Parse the body of ``/v1/chat/completions``.

    Raises:
        BadRequest: as for ``parse_completion``.
    """
    parsed = _decode(_chat_decoder, body)
    if not parsed.messages:
        raise BadRequest("messages must hold at least one message", param="messages")
    messages = [(message.role, _text_of(message)) for message in parsed.messages]
    spoken = [str(bytes(parsed.tools), "utf-8", "replace")]
    spoken += [f"\n{role}\n{text}" for role, text in messages]
    roles = [role for role, _ in messages]
    num_opening = roles.index("user") + 1 if "user" in roles else len(roles)
    return _request(
        parsed,
        tuple(text for _, text in messages if text),
        num_given_tokens=0,
        num_messages=len(messages),
        num_prompts=1,
        said=_said(messages),
        prompt="".join(spoken),
        beginning="".join(spoken[: num_opening + 1])[:MOST_BEGINNING],
    )


def _only_one(prompt: list[int | str | list[int]]) -> str | tuple[int, ...]:
    """The prompt, if it is one; loose token ids are one together."""
    if prompt and isinstance(prompt[0], int):
        return tuple([item for item in prompt if isinstance(item, int)])
    (only,) = prompt if len(prompt) == 1 else ("",)
    return only if isinstance(only, str) else tuple(only) if isinstance(only, list) else ""


def _text_of(message: _Message) -> str:
    """The text parts, a line each, as vLLM joins them."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "\n".join([part.text for part in message.content if part.text])


def _said(messages: list[tuple[str, str]]) -> Said:
    """Of a conversation of (role, text); the newest message stands in where no user has spoken."""
    instructions = [text for role, text in messages if role in ("system", "developer")]
    asked = [text for role, text in messages if role == "user"] or [messages[-1][1]]
    before = [text[:MOST_CONTEXT_CHARACTERS] for text in (*instructions[:1], *asked[-2:-1]) if text]
    return Said(
        asked[-1],
        "\n".join(before),
        tuple([len(text) for role, text in messages if role == "assistant" and text]),
        asked[0],
    )


def _request(
    body: _Body,
    texts: tuple[str, ...],
    *,
    num_given_tokens: int,
    num_messages: int,
    num_prompts: int,
    said: Said,
    prompt: str | tuple[int, ...],
    beginning: str,
) -> GenerationRequest:
    max_tokens = _count("max_tokens", body.max_tokens, MAX_TOKENS)
    max_completion_tokens = _count("max_completion_tokens", body.max_completion_tokens, MAX_TOKENS)
    num_answers = _count("n", body.n, MOST_ANSWERS) or 1
    _count("best_of", body.best_of, MOST_ANSWERS)
    return GenerationRequest(
        model=body.model,
        stream=bool(body.stream),
        texts=texts,
        num_given_tokens=num_given_tokens,
        num_messages=num_messages,
        max_tokens=max_tokens if max_completion_tokens is None else max_completion_tokens,
        num_sequences=num_prompts * num_answers,
        # Bounded to what sidecars take: one absurd request must not cost its unit all predictions.
        priority=max(-MAX_PRIORITY, min(body.priority or 0, MAX_PRIORITY)),
        user=(body.user or "")[:LONGEST_USER],
        said=said,
        prompt=prompt,
        beginning=beginning,
    )


def _count(name: str, value: int | None, most: int) -> int | None:
    if value is not None and not 1 <= value <= most:
        bound = "at least 1" if value < 1 else f"at most {most}"
        raise BadRequest(f"{name} must be {bound}, got {value}", param=name)
    return value


def _decode(decoder: msgspec.json.Decoder[_BodyType], body: bytes) -> _BodyType:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _, _, path = str(error).partition(" - at `$.")
        raise BadRequest(str(error), param=path.rstrip("`") or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
