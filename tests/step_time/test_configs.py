"""The model configuration files that come with Astrolabe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import num_gpu_blocks
from wire.model_config import ConfigError, load_model_config

CONFIG = Path(__file__).parents[2] / "config"

FILES = {
    "llama": ("meta-llama/Llama-2-7b-hf", "A30"),
    "llama70b": ("meta-llama/Llama-2-70b-hf", "A100-80G"),
    "qwen": ("Qwen/Qwen2-7B", "A30"),
    "smollm": ("HuggingFaceTB/SmolLM2-135M-Instruct", "CPU"),
}


@pytest.mark.parametrize("name", FILES)
def test_each_file_loads_and_fits_its_gpu(name: str) -> None:
    """Every file is valid, and its model fits the GPU that it is meant for."""
    model_name, gpu = FILES[name]
    model = load_model_config(CONFIG / f"{name}_config.json")
    assert model.model_name == model_name
    blocks = num_gpu_blocks(model, find_gpu(gpu))
    assert blocks * model.block_size >= model.max_model_len


def test_no_file_is_forgotten() -> None:
    """Each model configuration in the folder is one of those tested here."""
    found = {path.name.removesuffix("_config.json") for path in CONFIG.glob("*_config.json")}
    assert found == set(FILES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_sizes": 512}, r"chunk_sizes: Extra inputs are not permitted \(got 512\)"),
        ({"chunk_size": 0}, r"chunk_size: Input should be greater than 0 \(got 0\)"),
        ({"dtype": "int3"}, r"dtype: Input should be .* \(got 'int3'\)"),
    ],
)
def test_bad_keys_are_refused_by_name(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """An unknown key or a wrong value is an error that names file, key and value."""
    fields = json.loads((CONFIG / "llama_config.json").read_bytes())
    path = tmp_path / "model_config.json"
    path.write_text(json.dumps(fields | change))
    with pytest.raises(ConfigError, match=message) as caught:
        load_model_config(path)
    assert str(path) in str(caught.value)
