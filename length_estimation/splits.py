"""Which examples are for training, which for choosing, which for the final figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from length_estimation.examples import Example

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Splits:
    """No two of them share a conversation, nor ``test`` a prompt with the others."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


def is_first_turn(example: Example) -> bool:
    """Whether nothing stood before the prompt."""
    return example.turn == 0 and not example.context


def without_repeats(examples: Iterable[Example]) -> list[Example]:
    """The first example of each prompt; beyond first turns, of each prompt in its context."""
    seen: set[tuple[bool, str, str]] = set()
    kept = []
    for example in examples:
        key = (is_first_turn(example), example.text, example.context)
        if key not in seen:
            seen.add(key)
            kept.append(example)
    return kept


def split_first_turns(
    examples: Sequence[Example], *, seed: int, test_share: float, validation_share: float
) -> Splits:
    """The test split is a share of all first turns and holds nothing else.

    With ShareGPT, seed 0 and a tenth it is the split of Astrolabe's published figures. The other
    splits hold all turns of all other conversations, but none whose prompt is in the test split.
    """
    first = [example for example in examples if is_first_turn(example)]
    test = last_of_permutation(first, seed=seed, share=test_share)
    return _with_rest(examples, test, {one.conversation for one in test}, seed, validation_share)


def last_of_permutation(items: Sequence[Item], *, seed: int, share: float) -> list[Item]:
    """The last share of a permutation by numpy's RandomState, in its order."""
    order = np.random.RandomState(seed).permutation(len(items))
    return [items[index] for index in order[int((1 - share) * len(items)) :]]


def split_conversations(
    examples: Sequence[Example], *, seed: int, test_share: float, validation_share: float
) -> Splits:
    """The test split holds all turns of a share of the conversations.

    The other splits hold none whose prompt is a first turn of the test split.
    """
    names = _drawn(examples, test_share, np.random.default_rng([seed, 1]))
    test = [example for example in examples if example.conversation in names]
    return _with_rest(examples, test, names, seed, validation_share)


def limited(examples: Sequence[Example], most: int, *, seed: int) -> list[Example]:
    """At most so many examples, drawn at random, in their old order."""
    drawn = np.random.default_rng([seed, 2]).permutation(len(examples))[:most]
    return [examples[index] for index in sorted(drawn)]


def _with_rest(
    examples: Sequence[Example],
    test: list[Example],
    test_names: set[str],
    seed: int,
    validation_share: float,
) -> Splits:
    prompts = {example.text for example in test if is_first_turn(example)}
    rest = [
        example
        for example in examples
        if example.conversation not in test_names and example.text not in prompts
    ]
    names = _drawn(rest, validation_share, np.random.default_rng([seed, 0]))
    return Splits(
        train=[example for example in rest if example.conversation not in names],
        validation=[example for example in rest if example.conversation in names],
        test=test,
    )


def _drawn(examples: Sequence[Example], share: float, rng: np.random.Generator) -> set[str]:
    """The names of a share of the conversations, one of them at least unless the share is 0."""
    names = list(dict.fromkeys(example.conversation for example in examples))
    count = max(round(share * len(names)), 1 if share else 0)
    return {names[index] for index in rng.permutation(len(names))[:count]}
