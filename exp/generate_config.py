"""Turn a cluster manifest into ``config/host_configs.json``."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from predictor.step_time.gpus import find_gpu
from wire.host_config import HostConfigs
from wire.model_config import ConfigError, ModelConfig, describe, load_model_config

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
    new_model = try_new_model(options, manifest, models)
    if new_model:
        path = folder / f"{_slug(new_model.model_name)}_config.json"
        models[new_model.model_name] = (path, new_model)
        written.append((path, new_model.model_dump_json(indent=2, exclude_unset=True)))
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


def try_new_model(
    options: argparse.Namespace, manifest: Manifest, models: dict[str, tuple[Path, ModelConfig]]
) -> ModelConfig | None:
    """The configuration of the model that ``config/`` lacks; None when it lacks none.

    Raises:
        ConfigError: a model is unknown and no --model-json tells of it, or not for that many.
    """
    unknown = sorted({node.model for node in manifest.nodes} - models.keys())
    if not unknown:
        return None
    if len(unknown) > 1 or not options.model_json:
        raise ConfigError(
            f"unknown model {unknown[0]!r}; known are {', '.join(sorted(models))}. Of one other"
            " model at a time, give the Hugging Face config.json: --model-json FILE"
        )
    return model_from_hugging_face(unknown[0], options)


def model_from_hugging_face(model_name: str, options: argparse.Namespace) -> ModelConfig:
    """A model configuration from a Hugging Face ``config.json``.

    Raises:
        ConfigError: the file is missing, is no JSON object, or lacks a size.
    """
    path: Path = options.model_json
    try:
        source = json.loads(path.read_text())
        num_heads = source["num_attention_heads"]
        dtype = source.get("torch_dtype") or source.get("dtype") or "float16"
        fields = {
            "model_name": model_name,
            "max_batch_size": options.max_batch_size,
            "chunk_size": options.chunk_size,
            "max_model_len": source["max_position_embeddings"],
            "dtype": dtype,
            "num_layers": source["num_hidden_layers"],
            "hidden_size": source["hidden_size"],
            "intermediate_size": source["intermediate_size"],
            "num_attention_heads": num_heads,
            "num_kv_heads": source.get("num_key_value_heads", num_heads),
            "head_dim": source.get("head_dim") or source["hidden_size"] // num_heads,
            "vocab_size": source["vocab_size"],
            "tie_word_embeddings": source.get("tie_word_embeddings", False),
            "tensor_parallel_size": options.tensor_parallel_size,
        }
        return ModelConfig.model_validate(fields)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except KeyError as error:
        raise ConfigError(
            f"{path}: {error} is missing; is it a Hugging Face config.json?"
        ) from error
    except ValidationError as error:
        raise ConfigError(describe(path, error)) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is not a Hugging Face config.json: {error}") from error


def host_configs(
    manifest: Manifest, models: dict[str, tuple[Path, ModelConfig]], options: argparse.Namespace
) -> dict[str, Any]:
    """The contents of the cluster file, checked.

    Raises:
        ConfigError: an unknown GPU, too few GPUs for the model, or a bad or repeated host name.
    """
    data: dict[str, Any] = {
        "nodes": [_node(node, models[node.model][0], options) for node in manifest.nodes],
        "predictor_port": 8100,
        "vllm_port": 8000,
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
    new.add_argument("--model-json", type=Path, metavar="FILE", help="Hugging Face config.json")
    new.add_argument("--max-batch-size", type=int, default=48, help="max_num_seqs (48)")
    new.add_argument("--chunk-size", type=int, default=512, help="max_num_batched_tokens (512)")
    new.add_argument("--tensor-parallel-size", type=int, default=1, help="GPUs a unit takes (1)")
    return parser


if __name__ == "__main__":
    main()
