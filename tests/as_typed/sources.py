"""The command lines of the documents that this project was made from, with where they stand.

The documents are no part of the project, so the commands are written down here as they have them.
"""

from __future__ import annotations

from dataclasses import dataclass

PLOT = "--output-dir experiment_output/results/extra_ablation --system-name Astrolabe"
ABLATION = "experiment_output/data/extra_ablation"


@dataclass(frozen=True, slots=True)
class SourceCommand:
    """One command line: the document, the section, and what is to be typed."""

    document: str
    section: str
    command: str


def _of(document: str, *lines: tuple[str, str]) -> tuple[SourceCommand, ...]:
    return tuple(SourceCommand(document, section, command) for section, command in lines)


SCRIPTS = "bash astrolabe/exp/end_to_end_exp_scripts/"
MAIN_PLOT = (
    "python experiments_analysis/experiment_plot.py"
    " --experiments-dir experiment_output/data/main/sharegpt"
    " --output-dir experiment_output/results/main --system-name Astrolabe"
)
ASTROLABE = _of(
    "astrolabe.md",
    ("3.2", "python astrolabe/exp/generate_config.py --username YOUR_SSH_USERNAME"),
    ("3.2", "bash astrolabe/exp/setup.sh"),
    ("3.2", 'export HF_TOKEN="YOUR_HF_TOKEN_HERE"'),
    ("3.3", SCRIPTS + "a30_main/main_experiment.sh"),
    ("3.4", MAIN_PLOT),
    ("4", SCRIPTS + "ablation/po2_ablation_exp.sh"),
    ("4", SCRIPTS + "ablation/burstiness_exp.sh"),
    ("4", SCRIPTS + "ablation/error_heatmap_exp.sh"),
    ("4", SCRIPTS + "ablation/cpu_tracking_experiment.sh"),
    ("4", SCRIPTS + "a100_supplementary/full_comparison.sh"),
    ("4", SCRIPTS + "ablation/auto_provision_exp.sh"),
    ("4", SCRIPTS + "ablation/extension_experiment.sh"),
    (
        "5",
        "wget https://huggingface.co/datasets/shibing624/sharegpt_gpt4/blob/main/sharegpt_gpt4.jsonl",
    ),
    ("5", "python astrolabe/length_estimation/sample.py"),
    ("5", "python astrolabe/length_estimation/train_roberta.py"),
    ("5", "python astrolabe/length_estimation/eval_roberta.py --tag-data True"),
    ("7", "--scheduler min_new_request_latency"),
    ("7", "--scheduler min_total_unprocessed_tokens"),
    ("7", "--scheduler min_lunmnix_load"),
    ("7", "--scheduler round_robin"),
    ("7", "--scheduler random"),
    ("9.2", f"python experiments_analysis/po2_plot.py --data-dir {ABLATION}/po2 {PLOT}"),
    (
        "9.3",
        f"python experiments_analysis/burstiness_plot.py --data-dir {ABLATION}/burstiness {PLOT}",
    ),
    (
        "9.4",
        "python experiments_analysis/prediction_error_plot.py"
        f" --data-dir {ABLATION}/prediction_error {PLOT}",
    ),
    (
        "9.5",
        "python experiments_analysis/cpu_overhead_plot.py"
        f" --data-dir {ABLATION}/cpu_tracker/sharegpt/min_new_request_latency {PLOT}",
    ),
    (
        "9.6",
        "python experiments_analysis/llumnix_comparison_plot.py"
        f" --data-dir {ABLATION}/llumnix_compare {PLOT}",
    ),
)
SLA = _of(
    "sla_aware_scheduler.md",
    ("create_pretrained_model.py", "python create_pretrained_model.py --help"),
    (
        "create_pretrained_model.py",
        "python create_pretrained_model.py --data /path/to/profiling_logs"
        " --output production_model.pkl --verbose",
    ),
    (
        "create_pretrained_model.py",
        "python create_pretrained_model.py --data /path/to/profiling_logs --analyze-only",
    ),
    (
        "create_pretrained_model.py",
        "python create_pretrained_model.py --demo --output demo_model.pkl",
    ),
    (
        "pretrained models",
        "python create_pretrained_model.py --data /path/to/profiling_data --output my_model.pkl",
    ),
)
CHAPTER = _of(
    "scheduling_chapter.md",
    (
        "7.6.1",
        "vllm serve meta-llama/Llama-2-7b-hf --max-num-batched-tokens 8192 --max-num-seqs 256"
        " --gpu-memory-utilization 0.9 --block-size 16 --max-paddings 256 --schedule-policy fcfs",
    ),
    (
        "7.7",
        "python -m sglang.launch_server --model meta-llama/Llama-3-8B --enable-pd-separation",
    ),
)
SOURCES = (*ASTROLABE, *SLA, *CHAPTER)
"""``adasplit.md`` and ``control_plane.md`` have none: they name files and a Python API."""
