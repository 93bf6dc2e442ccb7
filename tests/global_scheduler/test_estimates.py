"""Token counts and length estimates that the gateway makes for itself."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from global_scheduler.bodies import GenerationRequest, parse_chat, parse_completion
from global_scheduler.lengths import RunningMeanLengths
from global_scheduler.prompt_tokens import EstimatingCounter, TokenizerCounter
from global_scheduler.usage import TokenCounts, counts_of_body, counts_of_stream

pytestmark = pytest.mark.anyio


def test_the_first_estimate_is_max_tokens() -> None:
    """Nothing observed: the answer may get as long as it is allowed to."""
    lengths = RunningMeanLengths()
    assert lengths.estimate("m", 64).mean_tokens == 64
    assert lengths.estimate("m", None).mean_tokens == 256


def test_the_running_mean_is_kept_per_model_and_bounded_by_max_tokens() -> None:
    """One model's verbosity says nothing about another's."""
    lengths = RunningMeanLengths()
    for observed in (100, 300):
        lengths.observe("m", observed)
    assert lengths.estimate("m", None).mean_tokens == 200
    assert lengths.estimate("m", 50).mean_tokens == 50
    assert lengths.estimate("other", 7).source == "max_tokens"


def test_the_running_mean_follows_a_change() -> None:
    """After many answers of a new length the old ones are forgotten."""
    lengths = RunningMeanLengths()
    for observed in [100] * 500 + [400] * 1000:
        lengths.observe("m", observed)
    assert lengths.estimate("m", None).mean_tokens == pytest.approx(400, rel=0.02)


def completion(text: str) -> GenerationRequest:
    """A request with this prompt."""
    return parse_completion(json.dumps({"prompt": text}).encode())


def chat(text: str) -> GenerationRequest:
    """A chat of one message."""
    return parse_chat(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())


async def test_the_bytes_per_token_ratio_learns_from_usage() -> None:
    """Where no tokenizer is at hand the engines' figures correct the estimate."""
    counter, request = EstimatingCounter(), completion("x" * 400)
    assert await counter.count("m", request) == 100
    for _ in range(100):
        counter.correct("m", request, 200)
    assert await counter.count("m", request) == pytest.approx(200, rel=0.02)
    assert await counter.count("other", request) == 100


async def test_a_lying_usage_figure_does_not_spoil_the_ratio() -> None:
    """Figures beyond belief are bounded, and one of them moves the ratio a little only."""
    counter, request = EstimatingCounter(), completion("x" * 400)
    counter.correct("m", request, 100)
    counter.correct("m", request, 10**9)
    counter.correct("m", request, -5)
    assert 95 <= await counter.count("m", request) <= 110


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A tokenizer whose tokens are words."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


async def test_a_tokenizer_counts_exactly_on_and_off_the_event_loop(tokenizer_folder: Path) -> None:
    """Short texts are counted inline, long ones in a thread; both alike."""
    counter = TokenizerCounter(tokenizer_folder)
    assert await counter.count("m", completion("one two three")) == 3
    assert await counter.count("m", completion("word " * 5000)) == 5000


async def test_the_chat_template_is_learnt_from_usage(tokenizer_folder: Path) -> None:
    """A system prompt that the engine adds is expected from the second chat on."""
    counter = TokenizerCounter(tokenizer_folder)
    before = await counter.count("m", chat("one two"))
    counter.correct("m", chat("one two"), before + 30)
    assert await counter.count("m", chat("three")) == before - 1 + 30
    assert await counter.count("m", completion("three")) == 1


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    """The error says where it was looked for."""
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        TokenizerCounter(tmp_path)


def test_usage_is_read_from_a_body_and_from_a_stream() -> None:
    """The usage object counts; without one each event of a stream is a token."""
    usage = b'"usage":{"prompt_tokens":7,"completion_tokens":3}'
    assert counts_of_body(b"{" + usage + b"}") == TokenCounts(7, 3)
    assert counts_of_body(b"not json") is None
    assert counts_of_body(b'{"usage":null}') is None
    tail = b'data: {"a":1}\n\ndata: {' + usage + b"}\n\ndata: [DONE]\n\n"
    assert counts_of_stream(tail, 9) == TokenCounts(7, 3)
    assert counts_of_stream(b'data: {"a":1}\n\ndata: [DONE]\n\n', 9) == TokenCounts(None, 8)
