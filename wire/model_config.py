"""The model configuration files of ``config/``: what a unit serves and its scheduler's bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

AnyModel = TypeVar("AnyModel", bound=BaseModel)
DType = Literal["float32", "float16", "bfloat16", "fp8"]


class ConfigError(ValueError):
    """A configuration file that cannot be used; the message names the file, key and value."""


class ModelConfig(BaseModel):
    """One model as served by one unit. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_name: str = Field(min_length=1, description="the id that clients put into `model`")
    max_batch_size: PositiveInt = Field(description="vLLM's max_num_seqs")
    chunk_size: PositiveInt = Field(description="vLLM's max_num_batched_tokens")
    block_size: PositiveInt = 16
    max_model_len: PositiveInt = 4096
    dtype: DType = "float16"
    num_layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tie_word_embeddings: bool = False
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    num_gpu_blocks: PositiveInt | None = Field(
        default=None, description="KV blocks; computed from the GPU's memory when absent"
    )
    tokenizer: str | None = Field(
        default=None, description="path of a tokenizer.json or of the folder that holds one"
    )


def load_model_config(path: Path) -> ModelConfig:
    """Read and check a model configuration.

    Raises:
        ConfigError: the file is missing, is not JSON, or has a wrong or unknown key.
    """
    return load_config(path, ModelConfig)


def load_config(path: Path, kind: type[AnyModel]) -> AnyModel:
    """Read and check a configuration file of any kind.

    Raises:
        ConfigError: as for ``load_model_config``.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(describe(path, error)) from error


def describe(path: Path, error: ValidationError) -> str:
    """One line for each thing that is wrong, with its key and value."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        is_whole = not item["loc"] or item["type"] in ("missing", "json_invalid")
        shown = "" if is_whole else f" (got {item['input']!r})"
        lines.append(f"{path}: {key}: {item['msg']}{shown}")
    return "\n".join(lines)
