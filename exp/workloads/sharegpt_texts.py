"""ShareGPT as workloads have it: first turns with their texts, and whole conversations as chains of
block hashes. Read once a process, which takes about a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from exp.emulator.tokens import TOKEN_BYTES, Encoder
from exp.workloads.errors import WorkloadError
from exp.workloads.request import BLOCK_TOKENS
from exp.workloads.text_tokens import count_tokens, encoder_of, readable
from length_estimation.conversations import ASSISTANT, USER, Message
from length_estimation.sharegpt import conversations, first_turns, packaged_file
from length_estimation.splits import last_of_permutation

TEST_SHARE = 0.1
"""Of first turns: those that the length estimator was not trained on."""
MARK_TOKENS = 4
"""Of a chat template, before each message; the gateway reckons with the same."""
BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES
WORDS_PER_BLOCK = BLOCK_BYTES // 8
HASH_BITS = 63
Words = npt.NDArray[np.uint64]
_FACTORS: Words = np.bitwise_or(
    np.random.default_rng(0).integers(2**64, size=WORDS_PER_BLOCK, dtype=np.uint64), np.uint64(1)
)


class Chat(NamedTuple):
    """A first turn."""

    prompt: str
    num_prompt_tokens: int
    num_output_tokens: int
    is_unseen: bool
    """By the length estimator, in its training."""


class ChatTurn(NamedTuple):
    """A turn of a conversation; the prompt is all that stands before the answer."""

    num_prompt_tokens: int
    num_output_tokens: int


class Session(NamedTuple):
    """A conversation."""

    turns: tuple[ChatTurn, ...]
    block_hashes: tuple[int, ...]
    """Of its full blocks, each standing for everything up to the block's end."""


@lru_cache(maxsize=2)
def first_chats(tokenizer: str | None) -> tuple[Chat, ...]:
    """First turns, each prompt once.

    Args:
        tokenizer: a tokenizer.json or its folder; without it a token is four bytes.

    Raises:
        WorkloadError: ShareGPT is not installed, or the tokenizer cannot be read.
    """
    found = list(first_turns(_file()))
    unseen = set(last_of_permutation(found, seed=0, share=TEST_SHARE))
    turns = [turn for turn in found if turn.prompt.strip()]
    counts = count_tokens([text for turn in turns for text in turn], tokenizer)
    return tuple(
        Chat(readable(turn.prompt), num_prompt, num_output, turn in unseen)
        for turn, num_prompt, num_output in zip(turns, counts[::2], counts[1::2], strict=True)
    )


@lru_cache(maxsize=2)
def sessions(tokenizer: str | None, max_model_len: int) -> tuple[Session, ...]:
    """Conversations of one turn or more, as far as they fit into ``max_model_len`` tokens.

    Raises:
        WorkloadError: as ``first_chats``.
    """
    encoder = encoder_of(tokenizer)
    found = (_session(messages, encoder, max_model_len) for messages in _whole(_file()))
    return tuple(session for session in found if session.turns)


def _file() -> Path:
    try:
        return packaged_file()
    except FileNotFoundError as error:
        raise WorkloadError(str(error)) from error


def _whole(file: Path) -> Iterator[list[Message]]:
    """Messages of conversations, whose segments stand one after another in the file.

    A segment often begins with the message that the one before ends with.
    """
    name, whole = "", list[Message]()
    for part in conversations(file):
        messages = part.messages
        if part.name != name:
            yield whole
            name, whole = part.name, []
        if whole and messages[:1] == whole[-1:]:
            messages = messages[1:]
        whole.extend(messages)
    yield whole


def _session(
    messages: Iterable[Message],
    encoder: Encoder,
    max_model_len: int,
) -> Session:
    tokens, turns, last_role = bytearray(), list[ChatTurn](), ""
    for role, text, _ in messages:
        tokens += role.encode().ljust(MARK_TOKENS * TOKEN_BYTES)
        num_prompt_tokens = len(tokens) // TOKEN_BYTES
        said = encoder.encode(readable(text))
        tokens += said.ljust(-(-len(said) // TOKEN_BYTES) * TOKEN_BYTES)
        num_tokens = len(tokens) // TOKEN_BYTES
        if num_tokens > max_model_len:
            break
        if role == ASSISTANT and last_role == USER and num_tokens > num_prompt_tokens:
            turns.append(ChatTurn(num_prompt_tokens, num_tokens - num_prompt_tokens))
        last_role = role
    end = sum(turns[-1]) * TOKEN_BYTES if turns else 0
    return Session(tuple(turns), chained_hashes(bytes(tokens[:end])))


def chained_hashes(tokens: bytes) -> tuple[int, ...]:
    """A hash for each full block of these tokens, of everything up to the block's end.

    Each block is mixed with its place and the results are summed up, so that no loop is needed: the
    whole of ShareGPT takes less than a second.
    """
    num_blocks = len(tokens) // BLOCK_BYTES
    words = np.frombuffer(tokens, dtype="<u8", count=num_blocks * WORDS_PER_BLOCK)
    blocks = (_scrambled(words.reshape(num_blocks, WORDS_PER_BLOCK)) * _FACTORS).sum(axis=1)
    places: Words = np.arange(num_blocks).astype(np.uint64)
    chained: Words = np.cumsum(_scrambled(blocks + places * _FACTORS[0]))
    return tuple((chained >> np.uint64(64 - HASH_BITS)).tolist())


def _scrambled(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele et al. 2014): all bits depend on all."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: Words = words ^ (words >> np.uint64(31))
    return scrambled
