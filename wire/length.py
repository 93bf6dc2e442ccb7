"""How much output to expect of a prompt."""

from __future__ import annotations

import msgspec


class LengthQuestion(msgspec.Struct, kw_only=True):
    """What is known of a request before it is answered.

    ``text`` is the newest message of the user, or a completion's whole prompt; ``context`` what
    stood before it: the system message and the user's message before this one, a line each.
    """

    text: str
    context: str = ""
    num_prompt_tokens: int
    """Of the whole prompt, earlier turns and chat template included."""
    earlier_answer_characters: list[int] = []
    """The length of each earlier answer of the conversation, oldest first."""
    max_tokens: int | None = None
    model: str = ""
    """The served model's name."""


class LengthEstimate(msgspec.Struct, kw_only=True):
    """The number of output tokens; ``quantiles`` is empty when only a mean is known."""

    mean_tokens: float
    quantiles: dict[str, float] = {}
    """From a level such as ``"0.9"`` to the number of tokens not exceeded with that probability."""
    source: str
    """What made the estimate, for the decision log."""
