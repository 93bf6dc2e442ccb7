"""Turn a cluster manifest into ``config/host_configs.json``."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Run as a file, only that file's folder is searched.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp.project_python import PROJECT, run_with_project_python, seen_from_here

try:
    from pydantic import ValidationError

    from exp.manifest import Manifest, ManifestNode, load_manifest
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
except ModuleNotFoundError as error:
    run_with_project_python(error)

SERVER_RUNS_ALREADY = "none"
MANIFEST = PROJECT / "config/cluster.yaml"
"""What is read when no manifest is named. It is the user's: nothing here overwrites it."""
EXAMPLE = PROJECT / "config/cluster_example.yaml"

DESCRIPTION = """\
Write the cluster file that `bash exp/setup.sh --hosts FILE` deploys, from a short manifest of
your hosts. Everything is checked before anything is written.
"""

EPILOG = """
a manifest in YAML (config/cluster_example.yaml is one to start from):
  scheduler: node1            # the gateway's host, or {hostname: node1, port: 8200}; the first
                              # node when left out
  nodes:
    - {hostname: node1, gpu_type: A30, num_gpus: 1, model: llama}
    - {hostname: node2, user: ubuntu, gpu_type: A100-80G, num_gpus: 8, model: llama70b}

the same in CSV, with a header line:
  hostname,user,gpu_type,num_gpus,model
  node1,ubuntu,A30,1,llama
  node2,ubuntu,A100-80G,8,llama70b

A model is named by its id (meta-llama/Llama-2-7b-hf) or by its file in config/ (llama for
llama_config.json). A host gets as many units as its GPUs hold of the model. More keys a node may
have: vllm_command (what starts its vLLM server; "none" when one runs already), vllm_port and
predictor_port (of its first unit, 8001 and 8101 when left out; the next units get the ports that
follow), python, install_dir, ssh_port, identity_file.

examples:
  python exp/generate_config.py --username ubuntu      # from config/cluster.yaml
  python exp/generate_config.py --manifest cluster.yaml
  python exp/generate_config.py --manifest cluster.csv --username ubuntu
  python exp/generate_config.py --manifest cluster.csv --model-json mistral/config.json
"""


def main() -> int:
    """Read the manifest, check it, write the files; 1 when there is something to mend first."""
    options = _parser().parse_args()
    try:
        if options.manifest is None:
            if _wrote_example(options):
                return 1
            options.manifest = MANIFEST
        written = generate(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"read  {seen_from_here(options.manifest)}")
    if options.manifest.read_bytes() == EXAMPLE.read_bytes():
        print("note: that is the example as it came: its hosts are made up", file=sys.stderr)
    for path in written:
        print(f"wrote {seen_from_here(path)}")
    setup = f"bash {seen_from_here(PROJECT / 'exp/setup.sh')}"
    print(f"Next, see what would be done: {setup} --hosts {seen_from_here(written[-1])} --dry-run")
    return 0


def _wrote_example(options: argparse.Namespace) -> bool:
    """Write an example manifest where none is, and say what to do with it."""
    try:
        with MANIFEST.open("x") as file:
            file.write(EXAMPLE.read_text())
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigError(f"{MANIFEST}: {error.strerror}") from error
    words = [str(seen_from_here(Path(__file__).resolve()))]
    words += ["--username", options.username] if options.username else []
    print(
        f"There was no {seen_from_here(MANIFEST)}, so an example was written there; no cluster file"
        " yet. Put your hosts, their GPUs and models into it, then run again:\n"
        f"  python {shlex.join(words)}",
        file=sys.stderr,
    )
    return True


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
    if isinstance(manifest.scheduler, str):
        data["scheduler"] = {"hostname": manifest.scheduler}
    elif manifest.scheduler:
        data["scheduler"] = manifest.scheduler.model_dump(exclude_none=True)
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
    add(
        "--manifest",
        type=Path,
        metavar="FILE",
        help=".yaml or .csv (default: config/cluster.yaml; an example to edit is written there "
        "where nothing is)",
    )
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
    sys.exit(main())
