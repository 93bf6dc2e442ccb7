"""Conversations, and the examples that their answers are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from length_estimation.examples import Example
from length_estimation.token_counter import TokenCounter

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
TOKENS_PER_MESSAGE = 4
"""What a chat template adds to each message; the gateway reckons with the same."""


SHOWN_CHARACTERS = 80


class SourceError(Exception):
    """Data cannot be used; the message says where, and names key and value."""


def shown(value: object) -> str:
    """The beginning of a value that cannot be used, for an error."""
    return repr(value)[:SHOWN_CHARACTERS]


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    text: str
    num_tokens: int | None = None
    """Where it is known without the text."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order; a part of a longer conversation carries the name of the whole."""

    name: str
    messages: list[Message]
    model: str | None = None
    max_tokens: int | None = None


def examples_of(
    conversation: Conversation, counter: TokenCounter, *, model: str
) -> Iterator[Example]:
    """One example for each answer that follows a user's message and is not empty.

    What an example says of its request is what the gateway says of it (``LengthQuestion``).

    Args:
        model: for conversations that do not say who answered.
    """
    messages = conversation.messages
    counted = counter.count([message.text for message in messages])
    num_prompt_tokens, earlier, turn = 0, list[int](), 0
    for index, (message, num_counted) in enumerate(zip(messages, counted, strict=True)):
        num_tokens = num_counted if message.num_tokens is None else message.num_tokens
        if message.role == ASSISTANT:
            if index and messages[index - 1].role == USER and num_tokens:
                text, context = _asked(messages[:index])
                yield Example(
                    conversation=conversation.name,
                    turn=turn,
                    text=text,
                    context=context,
                    num_prompt_tokens=num_prompt_tokens,
                    earlier_answer_characters=list(earlier),
                    max_tokens=conversation.max_tokens,
                    model=conversation.model or model,
                    num_output_tokens=num_tokens,
                )
            turn += 1
            if message.text:
                earlier.append(len(message.text))
        num_prompt_tokens += num_tokens + TOKENS_PER_MESSAGE


def _asked(messages: list[Message]) -> tuple[str, str]:
    """The newest message of the user, and what stood before it: see ``LengthQuestion``."""
    instructions = [message.text for message in messages if message.role == SYSTEM]
    asked = [message.text for message in messages if message.role == USER]
    before = [text for text in (*instructions[:1], *asked[-2:-1]) if text]
    return asked[-1], "\n".join(before)
