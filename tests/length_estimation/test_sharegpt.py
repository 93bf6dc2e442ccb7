"""ShareGPT's file, which is cut off at its end, and files like it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from length_estimation.conversations import Message, SourceError
from length_estimation.sharegpt import conversations, first_turns, packaged_file


def entry(name: str, *said: tuple[str, str]) -> dict[str, Any]:
    """A conversation as the file has it."""
    return {"id": name, "conversations": [{"from": who, "value": text} for who, text in said]}


ENTRIES = [
    entry("aa_0", ("human", "hé 🎉"), ("gpt", "one")),
    entry("aa_11", ("gpt", "earlier"), ("human", "more"), ("gpt", "two")),
    entry("b_c_0", ("system", "be brief"), ("human", "hi"), ("gpt", "")),
]


def written(folder: Path, content: bytes) -> Path:
    """A file."""
    file = folder / "data.json"
    file.write_bytes(content)
    return file


def test_segments_share_the_name_of_their_conversation(tmp_path: Path) -> None:
    """An id is the name, an underscore and the segment."""
    read = list(conversations(written(tmp_path, json.dumps(ENTRIES).encode())))
    assert [one.name for one in read] == ["aa", "aa", "b_c"]
    assert read[2].messages == [
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", ""),
    ]


def test_a_cut_file_gives_all_that_is_whole(tmp_path: Path) -> None:
    """Wherever it was cut, inside of a character too, and nothing is made up."""
    content = json.dumps(ENTRIES, ensure_ascii=False).encode()
    whole = list(conversations(written(tmp_path, content)))
    sizes = []
    for size in range(len(content)):
        read = list(conversations(written(tmp_path, content[:size])))
        assert read == whole[: len(read)]
        sizes.append(len(read))
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert sizes[-1] == len(ENTRIES)


@pytest.mark.parametrize(
    "damage",
    [b'{"id": nonsense}', b'{"id":"\xff","conversations":[]}', b"]]", b'{"id":"a_0" "x"}'],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, damage: bytes) -> None:
    """Unlike a cut one; the error names the file."""
    file = written(tmp_path, b'[{"id":"a_0","conversations":[]},' + damage + b"]" + b" " * 100)
    with pytest.raises(SourceError, match=r"data\.json is not JSON"):
        list(conversations(file))


def test_an_entry_of_another_form_is_named(tmp_path: Path) -> None:
    """By its number, with the value."""
    file = written(tmp_path, json.dumps([*ENTRIES, {"id": "x", "conversations": 7}]).encode())
    with pytest.raises(SourceError, match=r"item 3: .*array.*'conversations': 7"):
        list(conversations(file))


def test_a_conversation_ends_where_a_stranger_speaks(tmp_path: Path) -> None:
    """Answers of other models are none of the model's."""
    file = written(
        tmp_path, json.dumps([entry("a_0", ("human", "x"), ("bing", "y"), ("human", "z"))]).encode()
    )
    assert [one.messages for one in conversations(file)] == [[Message("user", "x")]]


def test_first_turns_are_the_prompts_that_begin_a_conversation(tmp_path: Path) -> None:
    """Once each, with an answer that is not empty."""
    more = [
        entry("d_0", ("human", "hé 🎉"), ("gpt", "again")),
        entry("e_0", ("human", "none"), ("gpt", "")),
        entry("f_0", ("human", ""), ("gpt", "hm?")),
        entry("g_0", ("human", "two"), ("human", "in a row"), ("gpt", "x")),
        entry("h_0", ("human", "no answer")),
        entry("i_0"),
    ]
    file = written(tmp_path, json.dumps([*ENTRIES, *more]).encode())
    assert list(first_turns(file)) == [("hé 🎉", "one"), ("", "hm?")]


def test_the_packaged_file_has_the_first_turns_of_the_published_split() -> None:
    """The split counts from the end of these, so one more or less would change all of it."""
    assert sum(1 for _ in first_turns(packaged_file())) == 10_311
