"""Model configurations that leave out what follows from the model."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from predictor.app import create_app
from predictor.settings import ServeSettings
from predictor.whatif_command import main as whatif
from tests.global_scheduler.fleet import serving
from tests.predictor.engines import snapshot
from wire.architectures import Architecture
from wire.model_config import ConfigError, load_model_config, read_model_config

CONFIG = Path(__file__).parents[2] / "config"
OF_THE_SOURCE: dict[str, Any] = {
    "model_name": "meta-llama/Llama-2-7b-hf",
    "max_batch_size": 48,
    "chunk_size": 512,
    "block_size": 16,
}
HF_CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 1_000,
    "hidden_size": 512,
    "intermediate_size": 1_024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2_000,
    "torch_dtype": "float16",
}


def written(folder: Path, content: object, name: str = "model.json") -> Path:
    """A file with this in it."""
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_the_sources_four_fields_are_enough(tmp_path: Path) -> None:
    """They give the configuration that comes along, and say what was added and from where."""
    read = read_model_config(written(tmp_path, OF_THE_SOURCE))
    assert read.config == load_model_config(CONFIG / "llama_config.json")
    assert set(read.completed) == {field.name for field in fields(Architecture)}
    assert "meta-llama/Llama-2-7b-hf" in read.source
    assert "num_layers 32" in str(read.note)


def test_what_the_file_says_stays(tmp_path: Path) -> None:
    """Only what is missing comes from the table."""
    said = {"num_layers": 16, "max_model_len": 1_024, "dtype": "fp8"}
    read = read_model_config(written(tmp_path, OF_THE_SOURCE | said))
    assert (read.config.num_layers, read.config.max_model_len) == (16, 1_024)
    assert (read.config.dtype, read.config.hidden_size) == ("fp8", 4_096)
    assert not said.keys() & set(read.completed)


def test_a_file_that_says_all_sizes_is_left_alone(tmp_path: Path) -> None:
    """Its defaults are those of every such file, whatever its model's name."""
    content = json.loads((CONFIG / "qwen_config.json").read_text())
    del content["max_model_len"]
    read = read_model_config(written(tmp_path, content))
    assert (read.config.max_model_len, read.note) == (4_096, None)


def test_an_unknown_model_is_named_with_what_helps(tmp_path: Path) -> None:
    """The fields that are missing, the models that are known, and the flag for all others."""
    path = written(tmp_path, OF_THE_SOURCE | {"model_name": "me/mine", "num_layers": 3})
    with pytest.raises(ConfigError) as caught:
        load_model_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: hidden_size, intermediate_size, ")
    assert "'me/mine'" in message
    assert "--hf-config" in message
    assert "Qwen/Qwen2.5-7B-Instruct, " in message


def test_a_mixture_of_experts_is_completed_too(tmp_path: Path) -> None:
    """The size of an expert, how many there are and how many of them a token passes."""
    path = written(tmp_path, OF_THE_SOURCE | {"model_name": "mistralai/Mixtral-8x7B-v0.1"})
    config = load_model_config(path)
    assert (config.intermediate_size, config.num_experts, config.num_experts_per_tok) == (
        14336,
        8,
        2,
    )


def test_any_other_model_is_completed_from_its_own_file(tmp_path: Path) -> None:
    """The longest sequence and the type of its weights, too."""
    path = written(tmp_path, OF_THE_SOURCE | {"model_name": "me/mine"})
    hf_config = written(tmp_path, HF_CONFIG, "config.json")
    read = read_model_config(path, hf_config)
    assert (read.config.num_layers, read.config.num_kv_heads) == (4, 2)
    assert (read.config.head_dim, read.config.max_model_len) == (128, 2_000)
    assert (read.config.dtype, read.config.chunk_size) == ("float16", 512)
    assert read.source == str(hf_config)


def test_two_files_of_different_models_are_refused(tmp_path: Path) -> None:
    """One of them was not meant."""
    hf_config = written(tmp_path, HF_CONFIG, "config.json")
    with pytest.raises(ConfigError, match=r"num_layers: is 32, and 4 by .*config\.json"):
        load_model_config(CONFIG / "llama_config.json", hf_config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"max_batch_size": 48, "chunk_size": 512}, "model_name: Field required"),
        ({"model_name": "meta-llama/Llama-2-7b-hf"}, "chunk_size: Field required"),
        (OF_THE_SOURCE | {"model_name": 7}, r"model_name: .* \(got 7\)"),
        (OF_THE_SOURCE | {"chunksize": 7}, r"chunksize: .* \(got 7\)"),
        (OF_THE_SOURCE | {"num_layers": None}, r"num_layers: .* \(got None\)"),
        ([], "object"),
    ],
)
def test_what_is_wrong_is_still_named(content: object, message: str, tmp_path: Path) -> None:
    """No architecture says how an engine is started."""
    with pytest.raises(ConfigError, match=message):
        load_model_config(written(tmp_path, content))


@pytest.mark.anyio
async def test_a_sidecar_tells_what_it_was_completed_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In its log when it starts, and for as long as it runs."""
    path = written(tmp_path, OF_THE_SOURCE | {"model_name": "me/mine"})
    hf_config = written(tmp_path, HF_CONFIG, "config.json")
    given: dict[str, Any] = {
        "model-config": path,
        "hf_config": hf_config,
        "gpu": "A30",
        "learn": False,
    }
    caplog.set_level(logging.INFO, logger="predictor.app")
    async with serving(create_app(ServeSettings(**given))) as url, httpx.AsyncClient() as client:
        model = (await client.get(f"{url}/health")).json()["model"]
    assert model["name"] == "me/mine"
    assert model["completed_from"] == str(hf_config)
    assert "num_layers" in model["completed_fields"]
    assert any("num_layers 4" in line and str(hf_config) in line for line in caplog.messages)


def test_a_what_if_needs_no_configuration_of_a_known_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The snapshot says how the engine was started, a table or a file the rest."""
    example = json.loads(msgspec.json.encode(snapshot()))
    question = {"request_id": "q", "num_prompt_tokens": 300, "expected_output_tokens": 80}
    asked = written(tmp_path, question, "request.json")
    hf_config = written(tmp_path, HF_CONFIG, "config.json")

    def ask(model: str, *options: str) -> tuple[int, str, str]:
        state = written(tmp_path, example | {"model": model}, "snapshot.json")
        status = whatif(["--snapshot", str(state), "--request", str(asked), *options])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    status, known, note = ask("Qwen/Qwen2.5-7B")
    assert status == 0
    assert "the known architecture of Qwen/Qwen2.5-7B" in note
    status, small, note = ask("me/mine", "--hf-config", str(hf_config))
    assert status == 0
    assert str(hf_config) in note
    assert json.loads(small)["e2e_ms"] < json.loads(known)["e2e_ms"]
    status, nothing, error = ask("me/mine")
    assert (status, nothing) == (2, "")
    assert "'me/mine'" in error
