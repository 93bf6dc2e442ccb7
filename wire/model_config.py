"""The model configuration files of ``config/``: what a unit serves and its scheduler's bounds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from wire.architectures import ARCHITECTURES, Architecture, known_id
from wire.config_files import ConfigError, describe, load_config
from wire.hf_config import read_hf_config

__all__ = [
    "HF_CONFIG_HELP",
    "ConfigError",
    "DType",
    "ModelConfig",
    "ReadModel",
    "complete_model_config",
    "describe",
    "load_config",
    "load_model_config",
    "read_model_config",
]

DType = Literal["float32", "float16", "bfloat16", "fp8"]
HF_CONFIG_HELP = (
    "the model's config.json of Hugging Face, or its folder, for what the model's configuration "
    "leaves out"
)
"""Of the flag ``--hf-config``."""


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
    intermediate_size: PositiveInt = Field(description="of each expert where there are several")
    num_experts: PositiveInt = Field(
        default=1, description="feed-forward networks a layer; 1 for a dense model"
    )
    num_experts_per_tok: PositiveInt = Field(
        default=1, description="of them those that a token passes"
    )
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

    @field_validator("num_experts_per_tok")
    @classmethod
    def _not_more_than_there_are(cls, value: int, info: ValidationInfo) -> int:
        num_experts = info.data.get("num_experts", value)
        if value > num_experts:
            raise ValueError(f"must be at most num_experts, {num_experts}")
        return value


SIZES = tuple(
    field.name
    for field in fields(Architecture)
    if ModelConfig.model_fields[field.name].is_required()
)
"""What the architecture alone says. A file that has them all is complete."""


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A model's configuration, and what of it did not stand in its file."""

    config: ModelConfig
    completed: tuple[str, ...] = ()
    """Fields."""
    source: str = ""
    """Where they come from."""

    @property
    def note(self) -> str | None:
        """A sentence about them; None for a file that says everything."""
        if not self.completed:
            return None
        shown = ", ".join(f"{name} {getattr(self.config, name)}" for name in self.completed)
        return f"{self.config.model_name}: completed from {self.source}: {shown}"


def load_model_config(path: Path, hf_config: Path | None = None) -> ModelConfig:
    """Read and check a model configuration.

    Args:
        path: the file. It may leave out what follows from the architecture, if ``model_name`` is a
            known one of ``wire.architectures``.
        hf_config: the model's ``config.json`` of Hugging Face, to take that from instead.

    Raises:
        ConfigError: a file is missing, is not JSON, or lacks a key or has a wrong or unknown one.
    """
    return read_model_config(path, hf_config).config


def read_model_config(path: Path, hf_config: Path | None = None) -> ReadModel:
    """The same, with what was completed.

    Raises:
        ConfigError: as for ``load_model_config``.
    """
    given = _try_object(path)
    is_complete = given is None or all(name in given for name in SIZES)
    if given is None or (is_complete and hf_config is None):
        return ReadModel(load_config(path, ModelConfig))
    return complete_model_config(path, given, hf_config)


def complete_model_config(
    path: Path, given: dict[str, Any], hf_config: Path | None = None
) -> ReadModel:
    """The configuration of which ``given`` is known; ``path`` is what errors call it.

    Raises:
        ConfigError: as for ``load_model_config``.
    """
    _check_what_is_given(path, given)
    if hf_config is not None:
        known, source = asdict(read_hf_config(hf_config, given.get("dtype"))), str(hf_config)
        _check_is_of_one_model(path, given, hf_config, known)
    else:
        known, source = _known_architecture(path, given)
    completed = tuple(name for name in known if name not in given)
    return ReadModel(ModelConfig.model_validate({**known, **given}), completed, source)


def _try_object(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where that is no object or cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _check_what_is_given(path: Path, given: dict[str, Any]) -> None:
    """Whatever the sizes that are missing will be: a misspelt key is the likelier mistake."""
    try:
        ModelConfig.model_validate({**dict.fromkeys(SIZES, 1), **given})
    except ValidationError as error:
        raise ConfigError(describe(path, error)) from error


def _known_architecture(path: Path, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """That of the model's name, and where it comes from."""
    name = given["model_name"]
    found = known_id(name)
    missing = ", ".join(size for size in SIZES if size not in given)
    if found is None:
        raise ConfigError(
            f"{path}: {missing}: missing, and {name!r} is no model that is known here. Say them in "
            "the file, or name the model's config.json of Hugging Face (--hf-config). Known are: "
            f"{', '.join(ARCHITECTURES)}"
        )
    return asdict(ARCHITECTURES[found]), f"the known architecture of {found}"


def _check_is_of_one_model(
    path: Path, given: dict[str, Any], hf_config: Path, known: dict[str, Any]
) -> None:
    """Refuse a ``config.json`` of another model than the one that is configured."""
    for name in SIZES:
        if name in given and given[name] != known[name]:
            raise ConfigError(
                f"{path}: {name}: is {given[name]!r}, and {known[name]!r} by {hf_config}: are they "
                "of the same model?"
            )
