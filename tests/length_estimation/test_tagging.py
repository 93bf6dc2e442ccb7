"""Predictions written into a copy of data."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from length_estimation.__main__ import main
from length_estimation.commands.sample import to_datasets
from length_estimation.examples import Example
from length_estimation.model_folder import TOKENIZER_FILE
from length_estimation.splits import Splits
from tests.length_estimation.tiny_model import median_tokens, write_model_folder
from wire.length import LengthQuestion


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder."""
    return write_model_folder(tmp_path / "model")


def expected(num_prompt_tokens: int) -> float:
    """The tiny model's median."""
    return median_tokens(LengthQuestion(text="", num_prompt_tokens=num_prompt_tokens))


def data_set(folder: Path) -> Path:
    """A data set with two training examples, and one in each other split."""
    example = Example(
        conversation="c",
        turn=0,
        text="how are you?",
        context="",
        num_prompt_tokens=9,
        earlier_answer_characters=[],
        max_tokens=None,
        model="",
        num_output_tokens=5,
    )
    to_datasets(Splits([example] * 2, [example], [example])).save_to_disk(folder)
    (folder / "provenance.json").write_text('{"source": "a test"}')
    return folder


def test_a_data_set(model: Path, tmp_path: Path) -> None:
    """Every row of every split gains the predictions, the old columns and provenance stay."""
    data, out = data_set(tmp_path / "data"), tmp_path / "deep" / "out"
    options = ["--data", str(data), "--model-folder", str(model), "--out", str(out)]
    assert main(["tag", *options]) == 0
    tagged, untagged = load_from_disk(out), load_from_disk(data)
    assert [len(tagged[name]) for name in ("train", "validation", "test")] == [2, 1, 1]
    row = tagged["train"][1]
    assert row["predicted_median"] == pytest.approx(expected(9), rel=1e-4)
    assert row["predicted_mean"] > row["predicted_median"]
    assert row["predicted_quantiles"]["0.5"] == row["predicted_median"]
    assert row["predicted_quantiles"]["0.1"] < row["predicted_quantiles"]["0.9"]
    assert row["predicted_by"] == "tiny"
    assert {key: row[key] for key in untagged["train"].column_names} == untagged["train"][1]
    assert json.loads((out / "provenance.json").read_text()) == {"source": "a test"}


def test_tagging_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy is replaced only with --force; a tagged data set can be tagged; data stay as it is."""
    data = data_set(tmp_path / "data")
    tag = ["eval", "--tag-data", "True", "--methods", "model", "--model-folder", str(model)]
    tag.append("--data")
    assert main([*tag, str(data)]) == 0
    tagged = tmp_path / "data-tagged"
    assert main([*tag, str(data)]) == 2
    assert f"{tagged} exists; --force" in capsys.readouterr().err
    assert main([*tag, str(data), "--force"]) == 0
    assert main([*tag, str(tagged)]) == 0
    columns = load_from_disk(tmp_path / "data-tagged-tagged")["train"].column_names
    assert columns == load_from_disk(tagged)["train"].column_names
    assert main([*tag, str(data), "--out", str(data), "--force"]) == 2
    assert "is the data itself" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data",
        "data-tagged",
        "data-tagged-tagged",
        "model",
    ]


def tag_rows(rows: list[Any], model: Path, folder: Path) -> list[Any]:
    """Rows written to a file, tagged, and read again."""
    file = folder / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert main(["tag", *options_for(file, model)]) == 0
    lines = (folder / "rows-tagged.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def options_for(file: Path, model: Path) -> list[str]:
    """The tiny model's own tokenizer counts: a word or a mark is a token."""
    tokenizer = str(model / TOKENIZER_FILE)
    return ["--data", str(file), "--model-folder", str(model), "--tokenizer", tokenizer]


def test_rows_of_a_file(model: Path, tmp_path: Path) -> None:
    """Prompts, conversations and lines of the request log are tagged, and keep their fields."""
    asked = {"role": "user", "content": "how are you?"}
    rows: list[dict[str, Any]] = [
        {"prompt": "how are you?", "id": 7, "other": {"kept": [1]}},
        {"prompt": "how are you?", "response": "you are how", "num_output_tokens": 3},
        {"prompt": "how are you?", "num_prompt_tokens": 900},
        {"messages": [asked]},
        {"messages": [asked, {"role": "assistant", "content": "you?"}, asked]},
        {"text": "how", "context": "", "num_prompt_tokens": 50, "num_output_tokens": 3},
        {"conversations": [{"from": "human", "value": "how are you?"}]},
        {"conversations": [{"from": "human", "value": "how"}, {"from": "gpt", "value": "?"}]},
    ]
    tagged = tag_rows(rows, model, tmp_path)
    prompt, answered, counted, asked_once, asked_twice, logged, said_once, said_twice = (
        row["predicted_median"] for row in tagged
    )
    assert prompt == answered == asked_once == said_once == pytest.approx(expected(4 + 4), rel=1e-4)
    assert counted == pytest.approx(expected(900), rel=1e-4)
    assert asked_twice == pytest.approx(expected(4 + 4 + 2 + 4 + 4 + 4), rel=1e-4)
    assert said_twice == pytest.approx(expected(1 + 4), rel=1e-4)
    assert logged == pytest.approx(expected(50), rel=1e-4)
    assert [{key: row[key] for key in old} for row, old in zip(tagged, rows, strict=True)] == rows


def test_more_rows_than_a_batch_and_odd_texts(model: Path, tmp_path: Path) -> None:
    """Order is kept over batches; nothing, emoji, half of one and max_tokens do no harm."""
    odd: list[Any] = [
        {"prompt": ""},
        {"prompt": "天气 🚀"},
        {"prompt": "\ud83d"},
        {"prompt": "how", "max_tokens": 2},
    ]
    rows = [*odd, *({"prompt": "how", "num_prompt_tokens": number} for number in range(130))]
    tagged = tag_rows(rows, model, tmp_path)
    assert tagged[3]["predicted_quantiles"]["0.95"] == pytest.approx(2)
    medians = [row["predicted_median"] for row in tagged[4:]]
    assert medians == sorted(medians)
    assert len(set(medians)) == 130


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is not JSON"),
        (b'"\xff"', "line 2 is not JSON"),
        (b"7", "line 2 is not an object (got 7)"),
        (b"{}", "line 2: needs one of prompt, messages and conversations"),
        (b'{"prompt": 7}', "line 2: prompt: Expected"),
        (b'{"messages": []}', "line 2: no message of a user"),
        (b'{"prompt": "how", "num_prompt_tokens": "x"}', "line 2: Expected `int`, got `str`"),
        (b'{"text": "how", "num_prompt_tokens": -1}', "line 2: Expected `int` >= 0"),
        (b'{"text": "how"}', "line 2: Object missing required field `num_prompt_tokens`"),
    ],
)
def test_a_row_that_cannot_be_tagged(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, message: str
) -> None:
    """File and line are named, and nothing is left behind."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"prompt": "how"}\n' + line + b"\n")
    assert main(["tag", *options_for(file, model)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows.jsonl"]


def test_no_such_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file or folder is named."""
    for name in ("nothing.jsonl", "nothing"):
        assert main(["tag", *options_for(tmp_path / name, model)]) == 2
        assert name in capsys.readouterr().err
