"""The study of length estimates: what it sends and writes, and the figure that is drawn of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from analysis.length_error_plot import main as plot
from exp.length_errors import Answered, errors, read_answered, windows, write_answered
from exp.length_study import Study, run, summarise
from tests.global_scheduler.fleet import ScriptedEngine, fleet, reply
from tests.length_estimation.tiny_model import write_model_folder

FACTOR = 3


def answered(index: int, observed: int, **expected: dict[str, float]) -> Answered:
    """One request of a study."""
    return Answered(
        index=index,
        num_learnt_from=index,
        num_prompt_tokens=1,
        num_output_tokens=observed,
        is_cut=False,
        source="model",
        expected=expected,
    )


def test_errors_by_hand() -> None:
    """Errors are those of medians; a method without quantiles covers nothing."""
    wide, mean = {"0.1": 50.0, "0.5": 100.0, "0.9": 150.0}, {"0.5": 80.0}
    two = [
        answered(index, observed, raw=wide, recalibrated=wide, running_mean=mean)
        for index, observed in enumerate((50, 200))
    ]
    found = errors(two, "raw")
    assert (found.mae, found.median_error, found.coverage_80) == (75, 75, 0.5)
    assert found.median_relative_error == 0.75
    assert errors(two, "running_mean").coverage_80 is None
    assert [one.num_requests for one in windows(two * 3, 4, 4)] == [4, 2]
    assert [one.num_learnt_from for one in windows(two, 1, 1)] == [0, 1]


async def reply_at_length(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Three times what the tiny model expects of a prompt of one token, by turns more or less."""
    prompt = json.loads(body)["messages"][0]["content"]
    num_tokens = FACTOR * 30 + 5 * (len(prompt) % 3)
    answer = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": num_tokens, "total_tokens": 0},
    }
    await reply(send, 200, json.dumps(answer).encode())


@pytest.mark.anyio
async def test_a_study_shows_what_the_gateway_has_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recalibrated estimates get better than those of the same model left alone."""
    folder = write_model_folder(tmp_path / "model")
    engine, ended = ScriptedEngine(behave=reply_at_length), []
    settings = {"length_estimator": str(folder), "length_deadline_ms": 20_000.0}
    async with fleet(engine, **settings) as running:
        study = Study(
            gateway=str(running.client.base_url).rstrip("/"),
            prompts=[f"question {'?' * (number % 7)}{number}" for number in range(60)],
            max_tokens=400,
            concurrency=2,
            folder=folder,
        )
        found = await run(study, lambda: ended.append(1))
    assert (len(found), len(ended)) == (60, 60)
    assert [one.num_learnt_from for one in found[:2]] == [0, 0]
    assert found[0].expected["raw"] == pytest.approx(found[0].expected["recalibrated"])
    assert errors(found[25:], "recalibrated").mae < errors(found[25:], "raw").mae / 3
    summary = summarise(found)
    assert [one["num_requests"] for one in summary["windows"]] == [25, 25, 10]
    assert summary["not_by_the_model"] == 0

    result, picture = tmp_path / "results" / "study.jsonl", tmp_path / "figures" / "curve.png"
    write_answered(found, result)
    assert read_answered(result) == found
    assert plot([str(result), "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_damaged_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the line that cannot be used."""
    file = tmp_path / "study.jsonl"
    write_answered([answered(0, 1)], file)
    file.write_bytes(file.read_bytes() + b'{"index":1}\n')
    assert plot([str(file)]) == 2
    assert f"{file}, line 2" in capsys.readouterr().err
