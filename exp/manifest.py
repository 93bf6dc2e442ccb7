"""The manifest of a cluster: its hosts, as people write them down."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wire.model_config import ConfigError, describe

DEFAULT_VLLM_COMMAND = (
    "vllm serve {model} --port {port} --tensor-parallel-size {tensor_parallel_size}"
    " --max-model-len {max_model_len} --max-num-seqs {max_num_seqs}"
    " --max-num-batched-tokens {max_num_batched_tokens}"
    " --scheduler-cls predictor.vllm_plugin.scheduler.AstrolabeScheduler"
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ManifestNode(_Strict):
    """A host with GPUs."""

    hostname: str
    user: str | None = None
    gpu_type: str
    num_gpus: int
    model: str
    vllm_command: str = DEFAULT_VLLM_COMMAND
    python: str | None = None
    install_dir: str | None = None
    ssh_port: int | None = None
    identity_file: str | None = None
    vllm_port: int | None = None
    predictor_port: int | None = None


class ManifestScheduler(_Strict):
    """The gateway's host and port."""

    hostname: str
    port: int | None = None


class Manifest(_Strict):
    """A whole cluster."""

    nodes: list[ManifestNode] = Field(min_length=1)
    scheduler: str | ManifestScheduler | None = None


def load_manifest(path: Path) -> Manifest:
    """Read a ``.csv``, ``.yaml`` or ``.yml`` manifest.

    Raises:
        ConfigError: it is missing, has another ending, or a wrong or unknown key.
    """
    try:
        return Manifest.model_validate(_read(path))
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; start from config/cluster_example.yaml"
        ) from error
    except (yaml.YAMLError, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(describe(path, error)) from error


def _read(path: Path) -> Any:
    if path.suffix in (".yaml", ".yml"):
        return yaml.safe_load(path.read_text())
    if path.suffix == ".csv":
        with path.open(newline="") as lines:
            rows = csv.DictReader(lines, skipinitialspace=True, restkey="(more columns)")
            return {"nodes": [{key: cell for key, cell in row.items() if cell} for row in rows]}
    raise ConfigError(f"{path}: must end in .yaml, .yml or .csv")
