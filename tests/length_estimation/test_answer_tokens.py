"""Counting tokens as the server of a model would."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from length_estimation.answer_tokens import SMOLLM2, TokenizerError, load_tokenizer
from length_estimation.token_counter import TokenCounter


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    """The default tokenizer."""
    return load_tokenizer(SMOLLM2)


def test_smollm2s_ids_are_those_of_its_server(smollm2: Tokenizer) -> None:
    """As vLLM counted them, with the model that transformers makes of the same file."""
    encoding = smollm2.encode("<|im_start|>user\nHello world, 2024!<|im_end|>")
    assert encoding.ids == [1, 4093, 198, 19556, 905, 28, 216, 34, 32, 34, 36, 17, 2]


def test_texts_are_counted_one_by_one(smollm2: Tokenizer) -> None:
    """Empty ones, foreign ones, and such as have no UTF-8 form."""
    counter = TokenCounter(smollm2)
    assert counter.count(["", "Hello world", "Hello", " world", "\ud83d"]) == [0, 2, 1, 1, 1]
    assert counter.count(["中文" * 10])[0] >= 20
    assert counter.count([]) == []


def test_a_tokenizer_may_be_a_file_or_its_folder(smollm2: Tokenizer, tmp_path: Path) -> None:
    """As servers keep it; padding and truncation of its own are left out."""
    tokenizer = Tokenizer.from_str(smollm2.to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        assert TokenCounter(load_tokenizer(name)).count(["a b c d e f", "a"]) == [6, 1]


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Whatever is wrong with it."""
    (tmp_path / "tokenizer.json").write_bytes(b"\xff{}")
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))
