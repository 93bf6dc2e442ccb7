"""Workloads on command lines: named as in vLLM's benchmark where it has a name."""

from __future__ import annotations

import argparse
from typing import get_args, get_type_hints

from exp.fleet.arguments import above_zero, at_least
from exp.study.case import Arrivals, WorkloadSpec

SOURCES = get_args(get_type_hints(WorkloadSpec)["source"])
KINDS = get_args(get_type_hints(Arrivals)["kind"])
TRACE = "trace"
"""A data set that is a trace already."""
DATA_SETS = """\
  sharegpt       first questions of ShareGPT, with answers as long as ShareGPT's
  conversations  whole conversations of ShareGPT, turn by turn, as token ids with shared beginnings
  synthetic      token ids: --input-len and --output-len of them
  mixed          sharegpt (or a CSV file of lengths) and a --long-share of synthetic requests
  lengths        a CSV file with the columns num_prefill_tokens, num_decode_tokens and, if the times
                 are known, arrived_at
  arxiv          the same, or the JSON lines of the arXiv summarisation set
  azure          Azure's LLM inference traces of 2023 and 2024 (CSV)
  burstgpt       BurstGPT (CSV)
  mooncake       Mooncake's traces (JSON lines), their shared prefixes included
Files are those that their authors publish, at --dataset-path."""


def zero_or_more(text: str) -> float:
    """A type of argument: finite numbers, 0 or more."""
    return 0.0 if text in ("0", "0.0") else above_zero(text)


def _share(text: str) -> float:
    value = zero_or_more(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1, not {text!r}")
    return value


def add_workload_options(made: argparse.ArgumentParser) -> None:
    """All but the data set's name."""
    add = made.add_argument_group("data sets").add_argument
    add("--dataset-path", metavar="FILE", help="where the data set needs one")
    add("--num-prompts", type=at_least(1), default=1000, help="requests to send (%(default)s)")
    add("--max-model-len", type=at_least(1), default=4096, help="longer requests are left out"
        " (%(default)s)")  # fmt: skip
    add("--input-len", default="64-512", metavar="TOKENS", help="of synthetic prompts, a number or"
        " a span (%(default)s)")  # fmt: skip
    add("--output-len", default="64-256", metavar="TOKENS", help="of their answers (%(default)s)")
    add("--long-share", type=_share, default=0.1, help="of mixed: synthetic ones (%(default)g)")
    add("--think-time", type=above_zero, default=20.0, metavar="S", help="of conversations: mean"
        " time from turn to turn (%(default)g)")  # fmt: skip
    add("--tokenizer", metavar="FILE", help="a tokenizer.json that counts the tokens of texts"
        " (default: four bytes are one)")  # fmt: skip
    add("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    add = made.add_argument_group("arrivals").add_argument
    add("--arrivals", choices=KINDS, default="gamma", help="what the times follow; trace: those of"
        " the file, scaled to the rate (%(default)s)")  # fmt: skip
    add("--burstiness", type=above_zero, default=1.0, help="shape of gamma-distributed gaps, as in"
        " vLLM's benchmark: 1 is Poisson, less is burstier (%(default)g)")  # fmt: skip
    add("--on", type=zero_or_more, default=15.0, metavar="S", help="an ON phase (%(default)g)")
    add("--off", type=zero_or_more, default=15.0, metavar="S", help="an OFF phase (%(default)g)")
    add("--off-share", type=_share, default=0.0, help="the rate in OFF phases over that in ON"
        " phases (%(default)g)")  # fmt: skip
    add("--period", type=above_zero, default=86_400.0, metavar="S", help="of a diurnal rate"
        " (%(default)g)")  # fmt: skip
    add("--depth", type=_share, default=0.5, help="how far a diurnal rate swings (%(default)g)")


def workload_spec(options: argparse.Namespace) -> WorkloadSpec:
    """What the options say; ``dataset_name`` is one of ``SOURCES``."""
    return WorkloadSpec(
        source=options.dataset_name,
        path=options.dataset_path,
        arrivals=Arrivals(
            kind=options.arrivals,
            burstiness=options.burstiness,
            on_s=options.on,
            off_s=options.off,
            off_share=options.off_share,
            period_s=options.period,
            depth=options.depth,
        ),
        num_requests=options.num_prompts,
        max_model_len=options.max_model_len,
        prompt_tokens=options.input_len,
        output_tokens=options.output_len,
        long_share=options.long_share,
        think_s=options.think_time,
        tokenizer=options.tokenizer,
    )
