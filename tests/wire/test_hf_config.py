"""Reading a model's ``config.json`` of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wire.config_files import ConfigError
from wire.hf_config import MODEL_TYPES, read_hf_config

SIZES = {
    "vocab_size": 500,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "max_position_embeddings": 3_000,
}
LLAMA = {"model_type": "llama", **SIZES}


def written(folder: Path, content: object) -> Path:
    """A ``config.json`` with this in it."""
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        *((model_type, {"num_key_value_heads": 4}) for model_type in MODEL_TYPES),
        *((model_type, {}) for model_type in ("llama", "granite", "olmo2", "mistral", "mixtral")),
    ],
)
def test_a_file_means_what_transformers_takes_it_to_mean(
    model_type: str, said: dict[str, int], tmp_path: Path
) -> None:
    """Of each type that is accepted, with what its class has for keys that are left out."""
    transformers = pytest.importorskip("transformers")
    path = written(tmp_path, {"model_type": model_type, **SIZES, **said})
    theirs, ours = transformers.AutoConfig.from_pretrained(tmp_path), read_hf_config(path)
    assert ours.num_kv_heads == theirs.num_key_value_heads
    head_dim = getattr(theirs, "head_dim", None) or SIZES["hidden_size"] // 16
    assert ours.head_dim == head_dim
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert (ours.num_layers, ours.hidden_size) == (3, 256)
    expert_size = getattr(theirs, "moe_intermediate_size", 640)
    assert (ours.intermediate_size, ours.vocab_size) == (expert_size, 500)
    assert ours.num_experts == getattr(theirs, "num_local_experts", 1)
    assert ours.num_experts_per_tok == getattr(theirs, "num_experts_per_tok", 1)
    assert (ours.num_attention_heads, ours.max_model_len) == (16, 3_000)


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float32"}, "bfloat16"),
        ({}, "bfloat16"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
    ],
)
def test_weights_are_served_as_vllm_serves_them(
    said: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    """In 16 bits, unless they are quantised to 8."""
    assert read_hf_config(written(tmp_path, LLAMA | said)).dtype == dtype


def test_a_dtype_that_is_known_is_not_looked_for(tmp_path: Path) -> None:
    """So that a quantisation that is unknown here can still be told."""
    awq = {"quantization_config": {"quant_method": "compressed-tensors"}}
    path = written(tmp_path, LLAMA | awq)
    assert read_hf_config(path, dtype="fp8").dtype == "fp8"
    with pytest.raises(ConfigError, match="quantization_config: 'compressed-tensors'"):
        read_hf_config(path)


@pytest.mark.parametrize(
    ("said", "longest"),
    [
        ({"model_type": "mistral", "sliding_window": None}, 3_000),
        ({"model_type": "mistral", "sliding_window": 1_000}, 1_000),
        ({"model_type": "qwen2", "sliding_window": 1_000, "use_sliding_window": False}, 3_000),
        ({"model_type": "qwen2", "sliding_window": 1_000, "use_sliding_window": True}, 1_000),
        ({"model_type": "mistral", "max_position_embeddings": 9_000}, 4_096),
    ],
)
def test_sequences_are_no_longer_than_attention_looks_back(
    said: dict[str, Any], longest: int, tmp_path: Path
) -> None:
    """What the KV cache of a longer one takes is not reckoned with."""
    path = written(tmp_path, LLAMA | {"num_key_value_heads": 4} | said)
    assert read_hf_config(path).max_model_len == longest


def test_the_folder_is_enough(tmp_path: Path) -> None:
    """As it is for vLLM."""
    written(tmp_path, LLAMA)
    assert read_hf_config(tmp_path) == read_hf_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LLAMA | {"num_local_experts": 8}, r"model_type: .* experts \(got 'llama'\)"),
        (LLAMA | {"model_type": "qwen3_moe", "mlp_only_layers": [0]}, r"mlp_only_layers: .*\[0\]"),
        (LLAMA | {"model_type": "qwen3_moe", "num_experts": 0}, r"num_experts: .* \(got 0\)"),
        (LLAMA | {"model_type": "deepseek_v3"}, r"model_type: is not built yet"),
        (LLAMA | {"model_type": "gpt2"}, r"model_type: .*llama.* \(got 'gpt2'\)"),
        ({"hidden_size": 5}, "model_type: is missing"),
        ({"model_type": "llama"}, "hidden_size: is missing"),
        (LLAMA | {"hidden_size": "big"}, r"hidden_size: .* \(got 'big'\)"),
        (LLAMA | {"num_hidden_layers": 0}, r"num_hidden_layers: .* \(got 0\)"),
        (LLAMA | {"vocab_size": True}, r"vocab_size: .* \(got True\)"),
        (LLAMA | {"model_type": "qwen2"}, "num_key_value_heads: is missing"),
        (LLAMA | {"torch_dtype": "int8"}, r"torch_dtype: .*\(got 'int8'\)"),
        ([], "not a config.json"),
    ],
)
def test_what_cannot_be_used_is_named(content: object, message: str, tmp_path: Path) -> None:
    """With the file, the key and the value."""
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_hf_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_a_file_that_is_none_is_named(content: bytes | None, tmp_path: Path) -> None:
    """Missing, cut short, or no text at all."""
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_hf_config(path)
