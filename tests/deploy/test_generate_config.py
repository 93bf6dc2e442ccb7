"""A manifest of hosts becomes a cluster file, or an error that names what is wrong in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wire.host_config import load_host_configs

PROJECT = Path(__file__).parents[2]
MANIFEST = Path("config/cluster.yaml")
HEADER = "hostname,user,gpu_type,num_gpus,model"


def generate(folder: Path, manifest: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the generator on a CSV manifest."""
    path = folder / "cluster.csv"
    path.write_text(f"{HEADER}\n{manifest}\n")
    return run(path, folder / "hosts.json", *options)


def run(manifest: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the generator as users do."""
    command = [sys.executable, "-m", "exp.generate_config", "--manifest", str(manifest)]
    return subprocess.run(
        [*command, "--output", str(output), *options],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_example_manifest_makes_the_example_cluster_file(tmp_path: Path) -> None:
    """``config/host_configs.json`` is what the generator writes for ``cluster_example.yaml``."""
    made = run(PROJECT / "config/cluster_example.yaml", tmp_path / "hosts.json")
    assert made.returncode == 0, made.stderr
    written = (tmp_path / "hosts.json").read_text()
    assert written == (PROJECT / "config/host_configs.json").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout called ``astrolabe`` of what the generator reads, with an environment."""
    made = tmp_path / "astrolabe"
    for folder in ("exp", "config", "wire", "predictor"):
        ignored = shutil.ignore_patterns("__pycache__", MANIFEST.name)
        shutil.copytree(PROJECT / folder, made / folder, ignore=ignored)
    (made / ".venv/bin").mkdir(parents=True)
    program = made / ".venv/bin/python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return made


def typed(
    checkout: Path, *options: str, python: str = "python"
) -> subprocess.CompletedProcess[str]:
    """Run the generator from the folder above the checkout, as the line is written."""
    env = {**os.environ, "PATH": f"{checkout}/.venv/bin:{os.environ['PATH']}"}
    command = [python, "astrolabe/exp/generate_config.py", "--username", "bob", *options]
    return subprocess.run(
        command,
        cwd=checkout.parent,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_without_a_manifest_an_example_is_written_to_be_edited(checkout: Path) -> None:
    """Once, and no cluster file is made of it before it was looked at; an edited one is kept."""
    manifest = checkout / MANIFEST
    before = (checkout / "config/host_configs.json").read_bytes()
    first = typed(checkout)
    assert first.returncode == 1
    assert "There was no astrolabe/config/cluster.yaml, so an example was written" in first.stderr
    assert "python astrolabe/exp/generate_config.py --username bob" in first.stderr
    assert (checkout / "config/host_configs.json").read_bytes() == before

    assert "its hosts are made up" in typed(checkout).stderr
    manifest.write_text(manifest.read_text().replace("node1", "mine"))
    edited = manifest.read_text()
    made = typed(checkout)
    assert made.returncode == 0, made.stderr
    assert "made up" not in made.stderr
    assert "bash astrolabe/exp/setup.sh --hosts astrolabe/config/host_configs.json" in made.stdout
    nodes = load_host_configs(checkout / "config/host_configs.json").nodes
    assert [(node.hostname, node.user) for node in nodes] == [("mine", "bob"), ("node2", "bob")]
    assert manifest.read_text() == edited


def test_any_python_will_do(checkout: Path) -> None:
    """One without the libraries hands over to the project's own, or says how to get that."""
    bare = f"{checkout}/bare-python"
    Path(bare).write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    Path(bare).chmod(0o755)
    assert "an example was written" in typed(checkout, python=bare).stderr
    shutil.rmtree(checkout / ".venv")
    refused = typed(checkout, python=bare)
    assert refused.returncode == 2
    assert "bash astrolabe/exp/setup.sh --install-only" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_ports_of_hosts_and_gateway(tmp_path: Path) -> None:
    """What a manifest says of ports stands in the cluster file; nothing else does."""
    path = tmp_path / "cluster.yaml"
    node = {"hostname": "a", "gpu_type": "A30", "num_gpus": 2, "model": "llama"}
    manifest = {"nodes": [{**node, "vllm_port": 9000}], "scheduler": {"hostname": "a", "port": 81}}
    path.write_text(json.dumps(manifest))
    assert run(path, tmp_path / "hosts.json").returncode == 0
    configs = load_host_configs(tmp_path / "hosts.json")
    assert configs.scheduler.port == 81
    assert [(unit.engine_port, unit.predictor_port) for unit in configs.units(PROJECT)] == [
        (9000, 8101),
        (9001, 8102),
    ]


def test_csv_with_short_model_names_and_a_default_user(tmp_path: Path) -> None:
    """Units are counted from GPUs, and --username fills in for nodes that name nobody."""
    made = generate(tmp_path, "a,,A30,2,llama\nb,eve,H100,8,llama70b", "--username", "bob")
    assert made.returncode == 0, made.stderr
    configs = load_host_configs(tmp_path / "hosts.json")
    assert [node.user for node in configs.nodes] == ["bob", "eve"]
    assert [unit.name for unit in configs.units(PROJECT)] == ["a-1", "a-2", "b-1", "b-2"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("a,u,A3,1,llama", "a: unknown GPU 'A3'; known are A30"),
        ("a,u,A30,1,llama70b", "a: num_gpus is 1, but one unit"),
        ("a,u,A30,1,gpt", "unknown model 'gpt'; known are"),
        ("a,u,A30,1,llama\na,u,A30,1,llama", "'a' stands for two nodes"),
        ("a,u,A30,many,llama", "nodes.0.num_gpus"),
        ("a,u,A30,1,llama,7", "(more columns)"),
        ("-oX,u,A30,1,llama", "nodes.0.hostname"),
        ("a,u,A30,1,", "nodes.0.model: Field required"),
        ("", "nodes: List should have at least 1 item"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    tmp_path: Path, manifest: str, message: str
) -> None:
    """One line says which host, key and value; the output is not touched."""
    made = generate(tmp_path, manifest)
    assert made.returncode == 1
    assert message in made.stderr
    assert "Traceback" not in made.stderr
    assert not (tmp_path / "hosts.json").exists()


def test_a_new_model_comes_from_its_hugging_face_configuration(tmp_path: Path) -> None:
    """--model-json makes the model configuration beside the cluster file that refers to it."""
    source = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 512,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(source))
    options = ("--model-json", str(tmp_path / "config.json"))
    written = PROJECT / "config/tiny_for_a_test_config.json"
    try:
        made = generate(tmp_path, "a,u,A30,1,me/Tiny-for-a-test", *options)
        assert made.returncode == 0, made.stderr
        model = json.loads(written.read_text())
    finally:
        written.unlink(missing_ok=True)
    assert (model["model_name"], model["num_kv_heads"], model["head_dim"]) == (
        "me/Tiny-for-a-test",
        4,
        16,
    )
    del source["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(source))
    made = generate(tmp_path, "a,u,A30,1,me/Tiny-for-a-test", *options)
    assert "vocab_size: is missing" in made.stderr


def test_a_common_model_needs_no_file(tmp_path: Path) -> None:
    """Its architecture is known; what it is served with is as for any other."""
    written = PROJECT / "config/smollm2_360m_config.json"
    assert not written.exists()
    try:
        made = generate(tmp_path, "a,u,A30,1,HuggingFaceTB/SmolLM2-360M", "--chunk-size", "256")
        assert made.returncode == 0, made.stderr
        model = json.loads(written.read_text())
    finally:
        written.unlink(missing_ok=True)
    assert (model["num_layers"], model["num_kv_heads"], model["chunk_size"]) == (32, 5, 256)
    node = json.loads((tmp_path / "hosts.json").read_text())["nodes"][0]
    assert node["model_config"] == "config/smollm2_360m_config.json"


def test_a_mixture_whose_layers_differ_is_not_taken_for_another(tmp_path: Path) -> None:
    """Its file names what is not built yet."""
    content = {"model_type": "qwen3_moe", "mlp_only_layers": [0]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    made = generate(tmp_path, "a,u,A30,1,me/m", "--hf-config", str(tmp_path / "config.json"))
    assert made.returncode != 0
    assert "mlp_only_layers: dense layers among experts are not built yet" in made.stderr
