"""Making data sets, from files to folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from tokenizers import Tokenizer, models, pre_tokenizers

from global_scheduler.bodies import parse_chat
from global_scheduler.request_log import LoggedRequest, RequestLog
from length_estimation.commands import defaults
from length_estimation.commands.sample import main
from length_estimation.conversations import TOKENS_PER_MESSAGE, examples_of
from length_estimation.examples import Example, prompts_sha256
from length_estimation.provenance import read_provenance
from length_estimation.sources import conversation_of_row
from length_estimation.token_counter import TokenCounter
from wire.length import LengthQuestion

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer to which each word is a token."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture
def sample(words: Path, tmp_path: Path) -> Any:
    """Makes a data set and reads it."""

    def run(*source: str, out: str = "set", options: tuple[str, ...] = ()) -> DatasetDict:
        argv = ["--source", *source, "--out", str(tmp_path / out), "--tokenizer", str(words)]
        assert main([*argv, *options]) == 0
        made = load_from_disk(str(tmp_path / out))
        assert isinstance(made, DatasetDict)
        return made

    return run


def sharegpt_file(folder: Path, num_conversations: int = 60) -> Path:
    """Conversations in segments, with prompts that repeat within and across them."""
    entries = []
    for number in range(num_conversations):
        for segment in range(1 + number % 3):
            said = []
            for turn in range(1 + (number + segment) % 3):
                prompt = f"prompt {(7 * number + 3 * segment + turn) % 90}"
                said.append({"from": "human", "value": prompt})
                said.append({"from": "gpt", "value": "word " * (1 + number % 5)})
            entries.append({"id": f"c{number}_{segment}", "conversations": said})
    file = folder / "sharegpt.json"
    file.write_text(json.dumps(entries))
    return file


def rows_file(folder: Path, *rows: Any) -> Path:
    """A JSONL file."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def examples(split: Dataset) -> list[Example]:
    """A split's rows."""
    return [Example(**row) for row in split]


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_no_split_knows_another(sample: Any, tmp_path: Path, seed: str) -> None:
    """No conversation is in two of them, and no prompt of the test split anywhere else."""
    made = sample(str(sharegpt_file(tmp_path)), options=("--seed", seed))
    names = [set(made[split]["conversation"]) for split in ("train", "validation", "test")]
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names))
    elsewhere = {*made["train"]["text"], *made["validation"]["text"]}
    assert not elsewhere & set(made["test"]["text"])
    assert all(one.turn == 0 and not one.context for one in examples(made["test"]))
    firsts = [one.text for split in made.values() for one in examples(split) if one.turn == 0]
    assert len(firsts) == len(set(firsts))


def test_a_seed_gives_one_data_set(sample: Any, tmp_path: Path) -> None:
    """And another seed another one."""
    file = str(sharegpt_file(tmp_path))
    sets = [
        {name: examples(split) for name, split in sample(file, out=out, options=options).items()}
        for out, options in (("a", ()), ("b", ("--seed", "0")), ("c", ("--seed", "1")))
    ]
    assert sets[0] == sets[1]
    assert sets[0]["test"] != sets[2]["test"]


def test_each_turn_tells_what_stood_before_it(words: Path) -> None:
    """Tokens of all that came before, with what a template adds; the answer's own tokens."""
    row = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one two three"},
            {"role": "assistant", "content": "four five"},
            {"role": "user", "content": [{"type": "text", "text": "six"}]},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "seven"},
            {"role": "assistant", "content": "eight nine ten"},
        ],
        "model": "m",
        "max_tokens": 9,
    }
    counter = TokenCounter(Tokenizer.from_file(str(words)))
    found = list(examples_of(conversation_of_row(row, "c"), counter, model="other"))
    first, second = found
    assert (first.turn, first.text, first.context) == (0, "one two three", "be brief")
    assert first.num_prompt_tokens == 5 + 2 * TOKENS_PER_MESSAGE
    assert (first.num_output_tokens, first.model, first.max_tokens) == (2, "m", 9)
    assert (second.turn, second.text, second.context) == (2, "seven", "be brief\nsix")
    assert second.num_prompt_tokens == 9 + 6 * TOKENS_PER_MESSAGE
    assert (second.num_output_tokens, second.earlier_answer_characters) == (3, [9])


def test_training_sees_what_the_gateway_sees(words: Path) -> None:
    """The question of an example is the one that the gateway asks of the same conversation."""
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": [{"text": "fo"}, {"text": "ur"}]},
        {"role": "assistant", "content": "five"},
    ]
    counter = TokenCounter(Tokenizer.from_file(str(words)))
    row = {"messages": messages, "model": "m", "max_tokens": 5}
    for example in examples_of(conversation_of_row(row, "c"), counter, model=""):
        body = {"messages": messages[: 2 + 2 * example.turn], "max_tokens": 5}
        request = parse_chat(json.dumps(body).encode())
        assert example.question() == request.length_question("m", example.num_prompt_tokens)


def test_rows_may_tell_text_or_number(sample: Any, tmp_path: Path) -> None:
    """Of an answer, in any of the forms; empty answers are left out, empty prompts are not."""
    file = rows_file(
        tmp_path,
        {"prompt": "a", "response": "x y"},
        {"prompt": "b", "num_output_tokens": 7, "model": "m", "max_tokens": 7},
        {"prompt": "", "response": "x", "unknown": []},
        {"prompt": "c", "response": ""},
        {"messages": [{"role": "user", "content": "d"}], "num_output_tokens": 5},
        {"prompt": "中文 🎉", "response": "好"},
    )
    made = sample(str(file), options=("--test-share", "0", "--validation-share", "0"))
    found = [(one.text, one.num_output_tokens, one.model) for one in examples(made["train"])]
    assert found == [
        ("a", 2, "chatgpt"),
        ("b", 7, "m"),
        ("", 1, "chatgpt"),
        ("d", 5, "chatgpt"),
        ("中文 🎉", 1, "chatgpt"),
    ]


def test_rows_of_a_conversation_stay_together(sample: Any, tmp_path: Path) -> None:
    """Where rows name theirs."""
    rows = [
        {"prompt": f"p{index}", "num_output_tokens": 1, "conversation": index // 5}
        for index in range(100)
    ]
    made = sample(str(rows_file(tmp_path, *rows)), options=("--test-share", "0.3"))
    assert len(made["test"]) == 30
    assert len(set(made["test"]["conversation"])) == 6


@pytest.mark.parametrize(
    ("line", "words_of_error"),
    [
        (b'{"prompt": 5, "response": "x"}', "prompt: Expected `str | null`, got `int` (got 5)"),
        (b'{"prompt": "a", "num_output_tokens": 0}', "num_output_tokens: Expected `int` >= 1"),
        (b'{"prompt": "a", "max_tokens": "9", "response": ""}', "max_tokens: Expected"),
        (b'{"messages": [{"role": 1}], "response": ""}', "messages[0].role: Expected `str`"),
        (b'{"prompt": "a"}', "needs response or num_output_tokens"),
        (b'{"response": "a"}', "needs one of prompt, messages and conversations"),
        (
            b'{"prompt": "a", "messages": [], "response": "b"}',
            "needs one of prompt, messages and conversations",
        ),
        (b"[1]", "Expected `object`, got `array` (got [1])"),
        (b'{"prompt": ', "is not JSON"),
        (b'{"prompt": "\xff\xfe"}', "is not JSON"),
        (b'{"prompt": "\\ud83d", "response": "x"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_line_is_named(
    words: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: bytes,
    words_of_error: str,
) -> None:
    """By file, line, key and value; nothing is written."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"prompt": "a", "response": "b"}\n\n' + line + b"\n")
    out = tmp_path / "set"
    assert main(["--source", str(file), "--out", str(out), "--tokenizer", str(words)]) == 2
    error = capsys.readouterr().err
    assert f"{file}, line 3" in error
    assert words_of_error in error
    assert os.listdir(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("source", "words_of_error"),
    [
        (["missing.json"], "there is no file missing.json"),
        (["request-log", "missing"], "no request log at missing"),
        (["request-log"], "request-log PATH"),
        (["a.json", "b.json"], "takes one source"),
    ],
)
def test_a_source_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: list[str], words_of_error: str
) -> None:
    """And nothing is written."""
    assert main(["--source", *source, "--out", str(tmp_path / "set")]) == 2
    assert words_of_error in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_too_few_rows_are_an_error(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As nothing would be left for training."""
    file = rows_file(tmp_path, {"prompt": "a", "response": "b"})
    out = tmp_path / "set"
    assert main(["--source", str(file), "--out", str(out), "--tokenizer", str(words)]) == 2
    assert "1 answered prompts leave none for training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "-1"), ("--max-examples", "0"), ("--test-share", "1")]
)
def test_an_option_out_of_range_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    """With its value."""
    with pytest.raises(SystemExit):
        main(["--source", "a.json", "--out", str(tmp_path / "set"), option, value])
    error = capsys.readouterr().err
    assert f"argument {option}" in error
    assert f"(got {value})" in error


def test_a_source_without_answers_is_an_error(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a file that was cut before its first conversation ended."""
    file = tmp_path / "cut.json"
    file.write_bytes(b'[{"id": "a_0", "conversations": [{"from"')
    out = tmp_path / "set"
    assert main(["--source", str(file), "--out", str(out), "--tokenizer", str(words)]) == 2
    assert "holds no answered prompt" in capsys.readouterr().err


async def test_the_gateways_request_log_is_a_source(sample: Any, tmp_path: Path) -> None:
    """Rotated files too; a line that was cut is left out."""
    log = tmp_path / "requests.jsonl"
    async with RequestLog(log, max_bytes=3_000, on_loss=lambda reason: None) as writing:
        for index in range(1, 31):
            question = LengthQuestion(
                text=f"p{index}",
                num_prompt_tokens=index,
                earlier_answer_characters=[5] * (index % 3),
                max_tokens=None if index % 2 else 100,
                model="m",
            )
            writing.add(
                LoggedRequest(
                    request_id=str(index),
                    time_s=0.0,
                    question=question,
                    opening=str(index // 3),
                    num_output_tokens=index,
                    is_exact=True,
                )
            )
    assert log.with_name("requests.jsonl.1").exists()
    log.write_bytes(log.read_bytes() + b'{"request_id": "cut')
    made = sample("request-log", str(log))
    found = [one for split in made.values() for one in examples(split)]
    assert sorted(one.num_output_tokens for one in found) == list(range(1, 31))
    one = next(one for one in found if one.text == "p8")
    assert (one.turn, one.earlier_answer_characters) == (2, [5, 5])
    assert (one.num_prompt_tokens, one.max_tokens, one.model) == (8, 100, "m")
    names = [set(split["conversation"]) for split in made.values()]
    assert sum(map(len, names)) == len(set.union(*names)) == 11


def test_a_few_rows_are_enough(sample: Any, tmp_path: Path) -> None:
    """Each split gets one, unless its share is nothing."""
    rows = [{"prompt": f"p{index}", "num_output_tokens": 1} for index in range(3)]
    file = str(rows_file(tmp_path, *rows))
    assert sample(file, out="all").num_rows == {"train": 1, "validation": 1, "test": 1}
    made = sample(file, out="two", options=("--validation-share", "0"))
    assert made.num_rows == {"train": 2, "test": 1}


@pytest.mark.parametrize("kind", ["a hub's folder", "JSON lines"])
def test_sharegpts_rows_are_read_from_anywhere(sample: Any, tmp_path: Path, kind: str) -> None:
    """Of a hub, here from a folder, which its library reads the same way, or of a file."""
    said = [{"from": "human", "value": "p"}, {"from": "gpt", "value": "x y"}]
    rows = [{"id": "a_0", "conversations": said}, {"id": "a_1", "conversations": said[:1]}]
    source = tmp_path / "hub"
    if kind == "JSON lines":
        source = rows_file(tmp_path, *rows)
    else:
        source.mkdir()
        Dataset.from_list(rows).to_parquet(str(source / "train.parquet"))
    made = sample(str(source), options=("--test-share", "0", "--validation-share", "0"))
    found = [(one.conversation, one.text, one.num_output_tokens) for one in examples(made["train"])]
    assert found == [("a", "p", 2)]


def test_what_is_taken_by_default(
    words: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The downloaded file that lies in the working directory, cut as the environment says."""
    monkeypatch.chdir(tmp_path)
    said = [[("human", f"p{n}"), ("gpt", "x")] for n in range(40)]
    rows = [{"conversations": [{"from": a, "value": b} for a, b in one]} for one in said]
    rows_file(tmp_path, *rows).rename(defaults.DOWNLOADED)
    monkeypatch.setenv(defaults.READ_LIMIT_VARIABLE, "30")
    assert main(["--tokenizer", str(words)]) == 0
    printed = capsys.readouterr().out
    assert "--source sharegpt_gpt4.jsonl --out .astrolabe/data/sharegpt --model gpt-4" in printed
    assert "next: " in printed
    told = read_provenance(defaults.DATA)
    assert (told.source, told.model, told.limit) == ("sharegpt_gpt4.jsonl", "gpt-4", 30)
    assert told.counts["answered prompts"] == 30
    monkeypatch.setenv(defaults.READ_LIMIT_VARIABLE, "few")
    assert main(["--tokenizer", str(words)]) == 2
    assert "ASTROLABE_SAMPLE_LIMIT must be at least 1 (got 'few')" in capsys.readouterr().err


def test_a_data_set_says_how_it_was_made(sample: Any, tmp_path: Path) -> None:
    """What was left out, of what, by which tokenizer; and which prompts are for testing."""
    file = sharegpt_file(tmp_path)
    made = sample(str(file), options=("--max-examples", "20"))
    told = read_provenance(tmp_path / "set")
    assert told.files.keys() == {"sharegpt.json"}
    assert told.counts["in test"] == len(made["test"])
    assert told.counts["in train, limited"] == len(made["train"]) == 20
    assert told.counts["answered prompts"] > told.counts["without repeated prompts"]
    assert told.test_prompts_sha256 == prompts_sha256(made["test"]["text"])
    assert "--max-examples 20" in told.command


def test_limits_leave_the_test_split_alone(sample: Any, tmp_path: Path) -> None:
    """So that figures of small models and large ones compare."""
    file = str(sharegpt_file(tmp_path))
    whole = sample(file, out="whole")
    small = sample(file, out="small", options=("--max-examples", "9"))
    assert examples(small["test"]) == examples(whole["test"])
    first = sample(file, out="first", options=("--first-turns-only",))
    assert examples(first["test"]) == examples(whole["test"])
    assert set(first["train"]["turn"]) == {0}


def test_a_folder_is_replaced_only_on_demand(
    sample: Any, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And then as a whole; the same data set is not made twice."""
    file = str(rows_file(tmp_path, *({"prompt": str(n), "response": "b"} for n in range(3))))
    argv = ["--source", file, "--out", str(tmp_path / "set"), "--tokenizer", str(words)]
    sample(file)
    made = read_provenance(tmp_path / "set")
    assert main(argv) == 0
    assert "is this data set already" in capsys.readouterr().out
    assert read_provenance(tmp_path / "set") == made
    assert main([*argv, "--seed", "5"]) == 2
    assert "set exists; --force replaces it" in capsys.readouterr().err
    assert main([*argv, "--force", "--seed", "5"]) == 0
    assert read_provenance(tmp_path / "set").seed == 5
    assert sorted(os.listdir(tmp_path)) == ["rows.jsonl", "set"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_half_data_set(
    words: Path, tmp_path: Path, end: signal.Signals
) -> None:
    """However it is stopped, here while it waits for more of its source."""
    file = tmp_path / "rows.jsonl"
    os.mkfifo(file)
    argv = ["--source", str(file), "--out", str(tmp_path / "set"), "--tokenizer", str(words)]
    process = subprocess.Popen(
        [sys.executable, "-m", "length_estimation", "sample", *argv], stderr=subprocess.DEVNULL
    )
    rows = os.open(file, os.O_RDWR)  # does not wait for the other side
    try:
        os.write(rows, b'{"prompt": "a", "response": "b"}\n')
        give_up_s = time.monotonic() + 240
        while not list(tmp_path.glob(".set-*")) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        assert list(tmp_path.glob(".set-*"))
        process.send_signal(end)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(rows)
    assert process.returncode != 0
    assert not (tmp_path / "set").exists()
    if end is signal.SIGINT:
        assert os.listdir(tmp_path) == ["rows.jsonl"]
