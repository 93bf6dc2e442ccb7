"""A model in a folder held against answers whose lengths are known, by the real command."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from datasets import load_from_disk

from length_estimation.commands.evaluate import main
from length_estimation.commands.sample import to_datasets
from length_estimation.examples import Example, prompts_sha256
from length_estimation.model_folder import CONFIG_FILE, ModelConfig
from length_estimation.splits import Splits
from tests.length_estimation.tiny_model import median_tokens, write_model_folder
from wire.length import LengthQuestion

METHODS = ["none", "mean", "median", "tfidf_boosting", "tfidf_ridge"]


@dataclass(frozen=True)
class Place:
    """Where a test's data set and model lie."""

    data: Path
    model: Path


def example(number: int, turn: int = 0) -> Example:
    """A request that gets just as many tokens as the tiny model expects."""
    num_prompt_tokens = 1 + number * number
    asked = LengthQuestion(text="", num_prompt_tokens=num_prompt_tokens)
    return Example(
        conversation=str(number),
        turn=turn,
        text=f"question {number} about {'ships' if number % 2 else 'trees'}",
        context="",
        num_prompt_tokens=num_prompt_tokens,
        earlier_answer_characters=[],
        max_tokens=None,
        model="known-model",
        num_output_tokens=round(median_tokens(asked)),
    )


def examples(start: int, count: int, turn: int = 0) -> list[Example]:
    """Some in a row."""
    return [example(number, turn) for number in range(start, start + count)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A data set whose test split has 30 first and 25 later turns, and a model."""
    splits = Splits(
        train=examples(0, 40),
        validation=examples(40, 5),
        test=[*examples(50, 30), *examples(80, 25, turn=1)],
    )
    to_datasets(splits).save_to_disk(tmp_path / "data")
    return Place(tmp_path / "data", write_model_folder(tmp_path / "model"))


def evaluate(place: Place, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, Any]:
    """The command's output, and what its last line says."""
    arguments = ["--data", str(place.data), "--model-folder", str(place.model), *options]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    return printed, json.loads(printed.splitlines()[-1])


def test_all_methods(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is right but for rounding beats what only knows words, and all is reported."""
    printed, found = evaluate(place, capsys)
    methods = found["methods"]
    assert list(methods) == METHODS
    assert found["num_examples"] == 55
    assert methods["none"]["mae"] < 0.5
    assert methods["none"]["kendall_tau"] > 0.99
    assert methods["none"]["acc_50"] == methods["none"]["coverage_80"] == 1
    assert all(methods[name]["mae"] > 50 for name in METHODS[1:])
    assert methods["median"]["kendall_tau"] == 0
    for figures in methods.values():
        assert figures["single_ms_p50"] > 0
        assert figures["batch64_per_s"] > 0
        assert {"mape", "acc_100", "r2", "pinball"} <= set(figures)
        assert f"{figures['mae']:.1f}" in printed


def test_kinds_of_requests(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """First and later turns are looked at apart; kinds of too few or of all requests are not."""
    _, found = evaluate(place, capsys, "--methods", "model", "median")
    assert list(found["by_kind"]) == ["first turns", "later turns"]
    maes = [kind["median"]["mae"] for kind in found["by_kind"].values()]
    assert maes[0] < found["methods"]["median"]["mae"] < maes[1]


def test_a_test_split_that_may_have_been_trained_on(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a model that names the very same prompts as left out is held to be judged fairly."""
    printed, found = evaluate(place, capsys, "--methods", "model")
    assert "WARNING" in printed
    assert found["unseen_in_training"] is False

    file = place.model / CONFIG_FILE
    config = msgspec.json.decode(file.read_bytes(), type=ModelConfig)
    prompts = [one.text for one in examples(50, 55)]
    trained_on = msgspec.structs.replace(
        config.trained_on, test_prompts_sha256=prompts_sha256(prompts)
    )
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(config, trained_on=trained_on)))
    printed, found = evaluate(place, capsys, "--methods", "model", "--limit", "7")
    assert "WARNING" not in printed
    assert found["unseen_in_training"] is True
    assert found["num_examples"] == 7


def test_baselines_do_not_learn_from_what_they_are_judged_by(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Judged by the validation split, the median is that of the training split alone."""
    _, found = evaluate(place, capsys, "--split", "validation", "--methods", "median")
    middle = sum(example(number).num_output_tokens for number in (19, 20)) / 2
    errors = [abs(one.num_output_tokens - middle) for one in examples(40, 5)]
    assert found["methods"]["median"]["mae"] == pytest.approx(sum(errors) / 5)


def test_figure(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A PNG is drawn; without matplotlib the error says what to install."""
    file = tmp_path / "figure.png"
    if importlib.util.find_spec("matplotlib"):
        evaluate(place, capsys, "--methods", "model", "median", "--figure", str(file))
        assert file.read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(SystemExit, match="2"):
            main(["--figure", str(file)])
        assert "astrolabe-llm[analysis]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere holds no data set"),
        (["--model-folder", "nowhere"], "nowhere/config.json cannot be read: No such file"),
        (["--split", "tset"], "no split 'tset', only ['test', 'train', 'validation']"),
    ],
)
def test_what_is_not_there(
    place: Place, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """A missing folder or split is named."""
    given = ["--data", str(place.data), "--model-folder", str(place.model)]
    assert main([*given, *options]) == 2
    assert message in capsys.readouterr().err


def test_splits_with_too_little(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An empty test split, and too few first turns to fit a baseline, are errors."""
    for name, splits, message in (
        ("empty", Splits(examples(0, 20), examples(20, 1), []), "has no split 'test'"),
        ("few", Splits(examples(0, 2), examples(2, 1), examples(3, 2)), "3 first turns to learn"),
    ):
        to_datasets(splits).save_to_disk(tmp_path / name)
        options = ["--data", str(tmp_path / name), "--model-folder", str(place.model)]
        assert main(options) == 2
        assert message in capsys.readouterr().err


def test_a_missing_column(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A data set of another making is refused by the column it lacks."""
    splits = to_datasets(Splits(examples(0, 2), examples(2, 1), examples(3, 2)))
    splits.remove_columns("context").save_to_disk(tmp_path / "other")
    assert main(["--data", str(tmp_path / "other"), "--model-folder", str(place.model)]) == 2
    assert "split train: there is no column 'context'" in capsys.readouterr().err


def test_a_damaged_model(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A model file that lost its end is named."""
    file = place.model / "model.onnx"
    file.write_bytes(file.read_bytes()[:-10])
    assert main(["--data", str(place.data), "--model-folder", str(place.model)]) == 2
    assert "model.onnx is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("base_model", ["roberta-base", "FacebookAI/roberta-base", "scratch"])
def test_a_model_is_called_by_its_encoder(
    place: Place, capsys: pytest.CaptureFixture[str], base_model: str
) -> None:
    """In tables and figures, whichever way it is asked for."""
    file = place.model / CONFIG_FILE
    config = json.loads(file.read_bytes())
    file.write_text(json.dumps({**config, "base_model": base_model}))
    label = base_model.rpartition("/")[2]
    for name in ("model", "roberta", label):
        printed, found = evaluate(place, capsys, "--methods", name, "--limit", "5")
        assert list(found["methods"]) == [label]
        assert found["base_model"] == base_model
        assert f"\n{label} " in printed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roberta", "--methods roberta: the model is built on none; measure it with --methods mod"),
        ("guess", "no 'guess', only model, mean, median, tfidf_boosting, tfidf_ridge"),
    ],
)
def test_methods_that_cannot_be_measured(
    place: Place, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    """What is not in the folder is not passed off as such."""
    options = ["--data", str(place.data), "--model-folder", str(place.model), "--methods", name]
    assert main(options) == 2
    assert message in capsys.readouterr().err


def test_evaluating_and_tagging(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """At once, with figures still in the last line; a copy that is there stops it at its start."""
    options = ["--methods", "model", "--limit", "5", "--tag-data", "True"]
    printed, found = evaluate(place, capsys, *options)
    assert found["num_examples"] == 5
    tagged = place.data.with_name("data-tagged")
    assert f"written to {tagged}" in printed
    assert "predicted_median" in load_from_disk(tagged)["test"].column_names
    given = ["--data", str(place.data), "--model-folder", str(place.model)]
    assert main([*given, *options]) == 2
    ended = capsys.readouterr()
    assert f"{tagged} exists; --force replaces it" in ended.err
    assert "MAE" not in ended.out


@pytest.mark.parametrize("options", [["--limit", "0"], ["--tag-data", "x"]])
def test_options_that_do_not_exist(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The option is named."""
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert options[0] in capsys.readouterr().err
