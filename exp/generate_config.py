"""Turn a cluster manifest into ``config/host_configs.json``."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from predictor.step_time.gpus import find_gpu
from wire.architectures import ARCHITECTURES, known_id
from wire.host_config import HostConfigs
from wire.model_config import (
    ConfigError,
    ModelConfig,
    complete_model_config,
    describe,
    load_model_config,
)

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT_VLLM_COMMAND = (
    "vllm serve {model} --port {port} --tensor-parallel-size {tensor_parallel_size}"
    " --max-model-len {max_model_len} --max-num-seqs {max_num_seqs}"
    " --max-num-batched-tokens {max_num_batched_tokens}"
    " --scheduler-cls predictor.vllm_plugin.scheduler.AstrolabeScheduler"
)
SERVER_RUNS_ALREADY = "none"

DESCRIPTION = """\
Write the cluster file that `bash exp/setup.sh --hosts FILE` deploys, from a short manifest of
your hosts. Everything is checked before anything is written.
"""

EPILOG = """
a manifest in YAML (config/cluster_example.yaml is one to start from):
  scheduler: node1            # the gateway's host; the first node when left out
  nodes:
    - {hostname: node1, user: ubuntu, gpu_type: A30, num_gpus: 1, model: llama}
    - {hostname: node2, user: ubuntu, gpu_type: A100-80G, num_gpus: 8, model: llama70b}

the same in CSV, with a header line:
  hostname,user,gpu_type,num_gpus,model
  node1,ubuntu,A30,1,llama
  node2,ubuntu,A100-80G,8,llama70b

A model is named by its id (meta-llama/Llama-2-7b-hf) or by its file in config/ (llama for
llama_config.json). A host gets as many units as its GPUs hold of the model. More keys a node may
have: vllm_command (what starts its vLLM server; "none" when one runs already), python,
install_dir, ssh_port, identity_file.

examples:
  python exp/generate_config.py --manifest cluster.yaml
  python exp/generate_config.py --manifest cluster.csv --username ubuntu
  python exp/generate_config.py --manifest cluster.csv --model-json mistral/config.json
"""


class ManifestNode(BaseModel):
    """A host, as people write it down."""

    model_config = ConfigDict(extra="forbid")

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


class Manifest(BaseModel):
    """A whole cluster, as people write it down."""

    model_config = ConfigDict(extra="forbid")

    nodes: list[ManifestNode] = Field(min_length=1)
    scheduler: str | None = None


def main() -> None:
    """Read the manifest, check it, write the files."""
    options = _parser().parse_args()
    try:
        for path in generate(options):
            print(f"wrote {path}")
    except ConfigError as error:
        sys.exit(f"error: {error}")


def generate(options: argparse.Namespace) -> list[Path]:
    """Write the cluster file, and a model configuration where one is given; returns their paths.

    Raises:
        ConfigError: with every wrong thing that was found, by name.
    """
    manifest = load_manifest(options.manifest)
    folder = PROJECT / "config"
    models = known_models(folder)
    written = []
    for model in new_models(options, manifest, models):
        path = folder / f"{_slug(model.model_name)}_config.json"
        models[model.model_name] = (path, model)
        written.append((path, model.model_dump_json(indent=2, exclude_unset=True)))
    configs = host_configs(manifest, models, options)
    written.append((options.output, json.dumps(configs, indent=2)))
    for path, text in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return [path for path, _ in written]


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


def known_models(folder: Path) -> dict[str, tuple[Path, ModelConfig]]:
    """The model configurations of a folder, by model id and by short name."""
    known = {}
    for path in sorted(folder.glob("*_config.json")):
        model = load_model_config(path)
        known[model.model_name] = known[path.name.removesuffix("_config.json")] = (path, model)
    return known


def new_models(
    options: argparse.Namespace, manifest: Manifest, models: Mapping[str, tuple[Path, ModelConfig]]
) -> list[ModelConfig]:
    """The configurations of the models that ``config/`` lacks.

    Raises:
        ConfigError: a model is unknown and no --model-json tells of it, or it tells of several.
    """
    unknown = sorted({node.model for node in manifest.nodes} - models.keys())
    if options.model_json and len(unknown) > 1:
        raise ConfigError(
            f"{options.model_json}: is of one model, and {', '.join(unknown)} are in no file of "
            "config/: give a manifest with one of them at a time"
        )
    return [new_model(name, options, models) for name in unknown]


def new_model(
    model_name: str,
    options: argparse.Namespace,
    models: Mapping[str, tuple[Path, ModelConfig]],
) -> ModelConfig:
    """A model's configuration from its Hugging Face ``config.json``, or a known architecture.

    Raises:
        ConfigError: there is neither, or it cannot be used.
    """
    if not options.model_json and known_id(model_name) is None:
        known = ", ".join([*sorted(models), *ARCHITECTURES])
        raise ConfigError(
            f"unknown model {model_name!r}; known are {known}."
            " Of one other model at a time, give the Hugging Face config.json: --model-json FILE"
        )
    given = {
        "model_name": model_name,
        "max_batch_size": options.max_batch_size,
        "chunk_size": options.chunk_size,
        "tensor_parallel_size": options.tensor_parallel_size,
    }
    return complete_model_config(options.manifest, given, options.model_json).config


def host_configs(
    manifest: Manifest, models: dict[str, tuple[Path, ModelConfig]], options: argparse.Namespace
) -> dict[str, Any]:
    """The contents of the cluster file, checked.

    Raises:
        ConfigError: an unknown GPU, too few GPUs for the model, or a bad or repeated host name.
    """
    data: dict[str, Any] = {
        "nodes": [_node(node, models[node.model][0], options) for node in manifest.nodes],
        "predictor_port": 8101,
        "vllm_port": 8001,
    }
    if manifest.scheduler:
        data["scheduler"] = {"hostname": manifest.scheduler}
    try:
        configs = HostConfigs.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(options.manifest, error)) from error
    for node, source in zip(configs.nodes, manifest.nodes, strict=True):
        try:
            find_gpu(node.gpu_type)
        except ConfigError as error:
            raise ConfigError(f"{options.manifest}: {node.hostname}: {error}") from error
        configs.units_of(node, models[source.model][1])
    return data


def _node(node: ManifestNode, model_path: Path, options: argparse.Namespace) -> dict[str, Any]:
    made = node.model_dump(exclude={"model"}, exclude_none=True)
    if options.username and not node.user:
        made["user"] = options.username
    if node.vllm_command == SERVER_RUNS_ALREADY:
        del made["vllm_command"]
    return {**made, "model_config": str(model_path.relative_to(PROJECT))}


def _slug(model_name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", model_name.rpartition("/")[2].lower()).strip("_.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python exp/generate_config.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--manifest", type=Path, required=True, metavar="FILE", help=".yaml or .csv")
    add("--username", metavar="U", help="the SSH user of nodes that name none")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=PROJECT / "config/host_configs.json",
        help="default: config/host_configs.json",
    )
    new = parser.add_argument_group("for a model that config/ does not have")
    new.add_argument(
        "--model-json",
        "--hf-config",
        type=Path,
        metavar="FILE",
        help="Hugging Face config.json; not needed for common models, whose architecture is known",
    )
    new.add_argument("--max-batch-size", type=int, default=48, help="max_num_seqs (48)")
    new.add_argument("--chunk-size", type=int, default=512, help="max_num_batched_tokens (512)")
    new.add_argument("--tensor-parallel-size", type=int, default=1, help="GPUs a unit takes (1)")
    return parser


if __name__ == "__main__":
    main()
