"""The cluster file is checked key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import CliApp

from exp.fleet.hosts import host_plans
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import parse_unit
from wire.host_config import HostConfigs, load_host_configs
from wire.model_config import ConfigError

PROJECT = Path(__file__).parents[2]
NODE = {"hostname": "node1", "gpu_type": "A30", "num_gpus": 1}


def write(folder: Path, **data: Any) -> Path:
    """A cluster file."""
    path = folder / "hosts.json"
    path.write_text(json.dumps(data))
    return path


def test_the_example_is_a_cluster_of_two_units() -> None:
    """``config/host_configs.json`` loads and gives each unit its name and ports."""
    units = load_host_configs(PROJECT / "config/host_configs.json").units(PROJECT)
    assert [(unit.name, unit.engine_url, unit.predictor_url) for unit in units] == [
        ("node1-1", "http://node1:8001", "http://node1:8101"),
        ("node2-1", "http://node2:8001", "http://node2:8101"),
    ]


def test_ports_are_those_of_the_first_unit(tmp_path: Path) -> None:
    """A file that says 8000 and 8100 means a server and a sidecar there."""
    nodes = [{"hostname": name, "gpu_type": "A30", "num_gpus": 1} for name in ("node1", "node2")]
    path = write(tmp_path, nodes=nodes, predictor_port=8100, vllm_port=8000)
    assert [
        (unit.engine_url, unit.predictor_url) for unit in load_host_configs(path).units(PROJECT)
    ] == [
        ("http://node1:8000", "http://node1:8100"),
        ("http://node2:8000", "http://node2:8100"),
    ]


def test_the_next_units_get_the_ports_that_follow() -> None:
    """On each host from its own first port on, or from the cluster's where it names none."""
    nodes = [{**NODE, "num_gpus": 2}, {**NODE, "hostname": "b", "num_gpus": 2, "vllm_port": 9000}]
    units = HostConfigs.model_validate({"nodes": nodes, "predictor_port": 8100}).units(PROJECT)
    ports = [(unit.name, unit.engine_port, unit.predictor_port) for unit in units]
    assert ports == [
        ("node1-1", 8001, 8100),
        ("node1-2", 8002, 8101),
        ("b-1", 9000, 8100),
        ("b-2", 9001, 8101),
    ]


def test_a_host_has_as_many_units_as_its_gpus_hold() -> None:
    """Eight GPUs hold two units of a model that takes four, each with GPUs and ports of its own."""
    node = {**NODE, "num_gpus": 8, "model_config": "config/llama70b_config.json"}
    node["vllm_command"] = """serve {model} --port {port} --compilation-config '{"level": 0}'"""
    (host,) = host_plans(HostConfigs.model_validate({"nodes": [node]}), PROJECT)
    engines = [part for part in host.plan.parts if part.role == "engine"]
    assert [part.env["CUDA_VISIBLE_DEVICES"] for part in engines] == ["0,1,2,3", "4,5,6,7"]
    assert [part.command[3] for part in engines] == ["8001", "8002"]
    assert engines[0].command[1] == "meta-llama/Llama-2-70b-hf"
    assert engines[0].command[-1] == '{"level": 0}'


def test_a_scheduler_may_have_a_host_of_its_own() -> None:
    """The gateway then is the only part there, and knows the units by their hosts' names."""
    data = {"nodes": [NODE], "scheduler": {"hostname": "front", "user": "me"}}
    _, front = host_plans(HostConfigs.model_validate(data), PROJECT)
    assert (front.hostname, front.target.user) == ("front", "me")
    (gateway,) = front.plan.parts
    assert "--unit=node1-1=http://node1:8001,http://node1:8101" in gateway.command


def test_options_of_the_gateway_reach_it() -> None:
    """Settings are given by their names, and the gateway's own parser understands them."""
    options = {"queue_order": "sjf", "max_attempts": 2, "slo": "*=2000,100"}
    options |= {"learn_threshold": True, "max_queue_age_s": 1.5}
    data = {"nodes": [NODE], "scheduler": {"policy": "random", "options": options}}
    (host,) = host_plans(HostConfigs.model_validate(data), PROJECT)
    gateway = host.plan.parts[-1]
    settings = CliApp.run(GatewaySettings, cli_args=list(gateway.command[3:]))
    assert (settings.policy, settings.queue_order, settings.max_attempts) == ("random", "sjf", 2)
    assert (settings.learn_threshold, settings.max_queue_age_s) == (True, 1.5)
    assert settings.slo == ["*=2000,100"]


@pytest.mark.parametrize("name", ["port", "unit", "--queue-order", "queue order"])
def test_options_that_cannot_be(tmp_path: Path, name: str) -> None:
    """What the deployment chooses itself, and what names no setting, is refused."""
    with pytest.raises(ConfigError, match=f"scheduler.options.{name}"):
        load_host_configs(write(tmp_path, nodes=[NODE], scheduler={"options": {name: 1}}))


def test_units_of_a_host_may_bear_different_loads() -> None:
    """A host's limit holds for all of its units but those that have one of their own."""
    limits = {"worker_concurrency_limit": 6, "worker_concurrency_limits": {"node1-2": 12}}
    configs = HostConfigs.model_validate({"nodes": [{**NODE, "num_gpus": 2, **limits}]})
    assert [unit.concurrency_limit for unit in configs.units(PROJECT)] == [6, 12]
    (host,) = host_plans(configs, PROJECT)
    settings = CliApp.run(GatewaySettings, cli_args=list(host.plan.parts[-1].command[3:]))
    assert [parse_unit(text).concurrency_limit for text in settings.unit] == [6, 12]


def test_a_limit_for_no_unit_is_refused() -> None:
    """A misspelt unit is named beside those that there are."""
    node = {**NODE, "worker_concurrency_limits": {"node1-2": 12}}
    with pytest.raises(ConfigError, match=r"no unit 'node1-2'; its units are node1-1"):
        HostConfigs.model_validate({"nodes": [node]}).units(PROJECT)


def test_too_few_gpus_for_the_model(tmp_path: Path) -> None:
    """A host on which not one unit fits is named, with both numbers."""
    node = {**NODE, "num_gpus": 2, "model_config": "config/llama70b_config.json"}
    with pytest.raises(ConfigError, match=r"node1: num_gpus is 2, but one unit .* takes 4"):
        load_host_configs(write(tmp_path, nodes=[node])).units(PROJECT)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hostname", "-oProxyCommand=touch /tmp/x"),
        ("hostname", "node1; reboot"),
        ("hostname", "nœud"),
        ("user", "-lroot"),
        ("user", "me@elsewhere"),
        ("identity_file", "-F/tmp/x"),
        ("install_dir", "$(reboot)"),
        ("install_dir", "../../etc"),
        ("python", "python -c"),
        ("model_config", "config/a b.json"),
        ("vllm_command", "serve --port {prt}"),
        ("vllm_command", "serve 'unclosed"),
        ("ssh_port", 0),
        ("num_gpus", 0),
        ("worker_concurrency_limit", 0),
        ("gpu_typ", "A30"),
    ],
)
def test_bad_values_are_refused_by_key_and_value(tmp_path: Path, key: str, value: object) -> None:
    """What a shell or ssh could take for something else, and unknown keys, do not get past."""
    with pytest.raises(ConfigError) as error:
        load_host_configs(write(tmp_path, nodes=[{**NODE, key: value}]))
    assert f"nodes.0.{key}" in str(error.value)
    assert repr(value) in str(error.value)


def test_a_host_named_twice_is_refused(tmp_path: Path) -> None:
    """Two nodes with one name would fight for the same ports."""
    with pytest.raises(ConfigError, match="'node1' stands for two nodes"):
        load_host_configs(write(tmp_path, nodes=[NODE, NODE]))
