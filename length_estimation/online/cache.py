"""What the model said of recent questions. No text is kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b

from length_estimation.inputs import CHARACTERS_PER_TOKEN, SAMPLED_CHARACTERS
from length_estimation.online.session import RawEstimate
from wire.length import LengthQuestion

KEY_BYTES = 16


def question_key(question: LengthQuestion, window: int) -> bytes:
    """Stands for all that a model with this window reads of a question, however long it is."""
    most = max(window * CHARACTERS_PER_TOKEN, SAMPLED_CHARACTERS)
    digest = blake2b(digest_size=KEY_BYTES)
    for part in _parts(question, most):
        content = part.encode(errors="surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()


def _parts(question: LengthQuestion, most: int) -> Iterator[str]:
    yield question.model
    yield question.context[:most]
    yield question.text[:most]
    yield question.text[-most:]
    yield (
        f"{len(question.text)} {question.num_prompt_tokens} {question.max_tokens} "
        f"{question.earlier_answer_characters}"
    )


class EstimateCache:
    """The estimates of the questions asked most recently."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[bytes, RawEstimate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> RawEstimate | None:
        """What is kept for a question; it then counts as asked just now."""
        raw = self._kept.get(key)
        if raw is not None:
            self._kept.move_to_end(key)
        return raw

    def put(self, key: bytes, raw: RawEstimate) -> None:
        """Keep it, in place of the one not asked for the longest if there is no room."""
        self._kept[key] = raw
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
