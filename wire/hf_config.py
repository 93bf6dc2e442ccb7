"""A model's ``config.json`` from Hugging Face, as far as ``ModelConfig`` needs it.

What a file leaves out is what the configuration class of its ``model_type`` has
(``transformers/models/*/configuration_*.py``, 5.19).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire.architectures import Architecture
from wire.config_files import ConfigError

FILE_NAME = "config.json"
SIXTEEN_BITS = "bfloat16"
"""vLLM's ``--dtype auto`` serves 32-bit weights in 16 bits, which take equal time and memory."""


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a file of this ``model_type`` means by leaving a key out."""

    is_multi_head: bool = False
    """As many KV heads as attention heads."""
    num_kv_heads: int | None = None
    """Without either, the file must say it."""
    head_dim: int | None = None
    """None: the hidden size divided by the attention heads."""
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    num_experts: int = 1
    num_experts_per_tok: int = 1
    expert_size: tuple[str, int | None] = ("intermediate_size", None)
    """The key of an expert's intermediate size, and the size itself where that is left out."""


MODEL_TYPES = {
    "llama": _Defaults(is_multi_head=True),
    "granite": _Defaults(is_multi_head=True),
    "olmo2": _Defaults(is_multi_head=True),
    "mistral": _Defaults(num_kv_heads=8, sliding_window=4_096),
    "qwen2": _Defaults(),
    "qwen3": _Defaults(head_dim=128),
    "glm4": _Defaults(head_dim=128),
    "gemma": _Defaults(head_dim=256, tie_word_embeddings=True),
    "smollm3": _Defaults(tie_word_embeddings=True),
    "mixtral": _Defaults(num_kv_heads=8, num_experts=8, num_experts_per_tok=2),
    "qwen3_moe": _Defaults(
        num_kv_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
        expert_size=("moe_intermediate_size", 768),
    ),
}
"""Decoders with gated feed-forward layers, in which every layer is like the next."""
NUM_EXPERTS_KEYS = ("num_experts", "num_local_experts")


def read_hf_config(path: Path, dtype: str | None = None) -> Architecture:
    """The architecture that a ``config.json`` describes.

    Args:
        path: the file, or the folder that holds it.
        dtype: of the weights as they are served, where that is known from elsewhere.

    Raises:
        ConfigError: it is missing, is no such file, lacks a size or has a wrong one, or its model
            is of a kind whose steps cannot be predicted; names file, key and value.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a config.json of Hugging Face")
    return _HfConfig(path, content).architecture(dtype)


@dataclass(frozen=True, slots=True)
class _HfConfig:
    path: Path
    content: Mapping[str, Any]

    def architecture(self, dtype: str | None) -> Architecture:
        defaults = self._defaults()
        hidden_size = self._size("hidden_size")
        num_heads = self._size("num_attention_heads")
        num_kv_heads = num_heads if defaults.is_multi_head else defaults.num_kv_heads
        return Architecture(
            num_layers=self._size("num_hidden_layers"),
            hidden_size=hidden_size,
            intermediate_size=self._size(*defaults.expert_size),
            num_attention_heads=num_heads,
            num_kv_heads=self._size("num_key_value_heads", num_kv_heads),
            head_dim=self._size("head_dim", defaults.head_dim or hidden_size // num_heads),
            vocab_size=self._size("vocab_size"),
            tie_word_embeddings=bool(
                self.content.get("tie_word_embeddings", defaults.tie_word_embeddings)
            ),
            max_model_len=self._max_model_len(defaults.sliding_window),
            dtype=dtype or self._dtype(),
            num_experts=self._num_experts(defaults.num_experts),
            num_experts_per_tok=self._size("num_experts_per_tok", defaults.num_experts_per_tok),
        )

    def _defaults(self) -> _Defaults:
        """Of the file's model type, which is one whose step times can be predicted."""
        model_type = self.content.get("model_type")
        if not isinstance(model_type, str):
            raise self._wrong("model_type", "is missing: is it a config.json of Hugging Face?")
        if model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise self._wrong("model_type", f"is not built yet; there are {known}")
        defaults = MODEL_TYPES[model_type]
        if defaults.num_experts == 1 and any("expert" in key for key in self.content):
            raise self._wrong("model_type", "is a dense model's, and the file tells of experts")
        if self.content.get("mlp_only_layers") or self.content.get("decoder_sparse_step", 1) != 1:
            raise self._wrong("mlp_only_layers", "dense layers among experts are not built yet")
        return defaults

    def _num_experts(self, default: int) -> int:
        key = next((key for key in NUM_EXPERTS_KEYS if key in self.content), NUM_EXPERTS_KEYS[0])
        return self._size(key, default)

    def _size(self, key: str, default: int | None = None) -> int:
        value = self.content.get(key)
        if value is None:
            value = default
        if value is None:
            raise self._wrong(key, "is missing: is it the config.json of a language model?")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, "must be a whole number above 0")
        return value

    def _max_model_len(self, default_window: int | None) -> int:
        """No longer than tokens look back: what is beyond leaves the KV cache, which is not
        reckoned with here.
        """
        longest = self._size("max_position_embeddings")
        window = self.content.get("sliding_window", default_window)
        if window is None or not self.content.get("use_sliding_window", True):
            return longest
        return min(longest, self._size("sliding_window", window))

    def _dtype(self) -> str:
        quantization = self.content.get("quantization_config")
        if isinstance(quantization, dict):
            method = quantization.get("quant_method")
            if method != "fp8":
                raise self._wrong(
                    "quantization_config",
                    f"{method!r} is not known here; say dtype in the model's configuration",
                )
            return "fp8"
        key = "torch_dtype" if "torch_dtype" in self.content else "dtype"
        dtype = self.content.get(key) or SIXTEEN_BITS
        if dtype not in ("float16", "bfloat16", "float32"):
            raise self._wrong(key, "must be float16, bfloat16 or float32")
        return SIXTEEN_BITS if dtype == "float32" else str(dtype)

    def _wrong(self, key: str, message: str) -> ConfigError:
        is_shown = key in self.content and key != "quantization_config"
        shown = f" (got {self.content[key]!r})" if is_shown else ""
        return ConfigError(f"{self.path}: {key}: {message}{shown}")
