"""Traces of short and long requests: what is in them, and what is said of files that are none."""

from __future__ import annotations

import random
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exp.workload_gen import main
from exp.workloads.arrivals import Phases, Rates, Stretch, arrivals_s
from exp.workloads.errors import TraceError
from exp.workloads.lengths_file import read_lengths
from exp.workloads.trace import TracedRequest, read_trace

SHORT_RUN = ("--duration", "40", "--on", "5", "--off", "15")


def made(folder: Path, *options: str) -> list[TracedRequest]:
    """The requests of a trace that the command writes."""
    file = folder / "trace.jsonl"
    assert main(["--output", str(file), *options]) == 0
    return read_trace(file)[1]


def of(requests: list[TracedRequest], name: str) -> list[TracedRequest]:
    """The requests of a class."""
    return [request for request in requests if request.request_class == name]


def lengths(folder: Path, text: str) -> Path:
    """A file of lengths."""
    file = folder / "lengths.csv"
    file.write_text(text)
    return file


def test_a_seed_makes_a_trace(tmp_path: Path) -> None:
    """The same bytes again, others with another seed, and the header tells what they are."""
    files = [tmp_path / name for name in "abc"]
    for file, seed in zip(files, "112", strict=True):
        assert main(["--output", str(file), "--seed", seed, *SHORT_RUN]) == 0
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other
    header, requests = read_trace(files[0])
    assert (header.seed, header.parameters["on"]) == (1, 5.0)
    assert [one.at_s for one in requests] == sorted(one.at_s for one in requests)


def test_long_requests_come_in_on_phases_and_leave_short_ones_alone(tmp_path: Path) -> None:
    """OFF comes first; the short requests are the same whatever the long ones are."""
    requests = made(tmp_path, *SHORT_RUN, "--long-rate", "3")
    assert of(requests, "long")
    assert all(one.at_s % 20 >= 15 for one in of(requests, "long"))
    assert all(2000 <= (one.num_prompt_tokens or 0) <= 3500 for one in of(requests, "long"))
    others = made(tmp_path, *SHORT_RUN, "--long-rate", "1", "--long-prompts", "700")
    assert of(others, "short") == of(requests, "short")
    assert of(others, "long") != of(requests, "long")


def test_short_requests_are_real_chats_that_fit(tmp_path: Path) -> None:
    """No prompt twice before all have been used; exact lengths are those of ShareGPT."""
    requests = of(made(tmp_path, *SHORT_RUN), "short")
    prompts = [one.prompt for one in requests]
    assert len(set(prompts)) == len(prompts) > 100
    assert not any(one.ignore_eos for one in requests)
    exact = of(made(tmp_path, *SHORT_RUN, "--exact-lengths"), "short")
    assert [one.prompt for one in exact] == prompts
    assert all(one.ignore_eos and one.max_tokens <= 512 for one in exact)
    assert statistics.median(one.max_tokens for one in exact) < 400


@given(
    on_s=st.floats(0.1, 5),
    off_s=st.floats(0, 5),
    on=st.floats(0, 20),
    off=st.floats(0, 20),
    shape=st.floats(0.2, 5),
    seed=st.integers(0, 99),
)
def test_arrivals_ascend_and_keep_out_of_phases_without_any(
    on_s: float, off_s: float, on: float, off: float, shape: float, seed: int
) -> None:
    """Whatever phases, rates and burstiness."""
    phases, rates = Phases(on_s, off_s), Rates(on, off)
    times = list(arrivals_s(phases.stretches(rates, 20.0), shape, random.Random(seed)))
    assert times == sorted(times)
    allowed = [
        (start, end)
        for start, end, is_on in phases.until(20.0)
        if (rates.on_per_s if is_on else rates.off_per_s) > 0
    ]
    assert all(any(start <= time < end for start, end in allowed) for time in times)


def test_rates_and_burstiness_are_those_asked_for() -> None:
    """Over many arrivals: the mean of each phase, and the gamma distribution's variation."""
    phases = Phases(10, 10)
    times = list(arrivals_s(phases.stretches(Rates(20, 5), 2_000.0), 1.0, random.Random(1)))
    in_on = sum(time % 20 >= 10 for time in times)
    assert in_on == pytest.approx(20_000, rel=0.05)
    assert len(times) - in_on == pytest.approx(5_000, rel=0.05)
    for shape in (0.25, 4.0):
        steady = list(arrivals_s([Stretch(2_000.0, 10)], shape, random.Random(2)))
        gaps = [after - before for before, after in pairwise(steady)]
        variation = statistics.stdev(gaps) / statistics.fmean(gaps)
        assert variation == pytest.approx(shape**-0.5, rel=0.1)


def test_a_file_is_replayed_with_its_arrivals(tmp_path: Path) -> None:
    """A stretch of it; what is too large for the model stays out."""
    rows = "arrived_at,num_prefill_tokens,num_decode_tokens\n1,10,5\n2.5,3000,7\n3,9000,1\n9,1,1\n"
    file = lengths(tmp_path, rows)
    requests = made(tmp_path, "--replay", str(file), "--from", "1", "--duration", "5")
    assert [(one.at_s, one.request_class, one.num_prompt_tokens) for one in requests] == [
        (0.0, "short", 10),
        (1.5, "long", 3000),
    ]
    assert [one.max_tokens for one in requests] == [5, 7]
    assert all(one.ignore_eos for one in requests)


def test_a_data_set_becomes_a_trace(tmp_path: Path) -> None:
    """At its rate, each answer as long as there; conversations carry what they share."""
    requests = made(tmp_path, "--dataset-name", "conversations", "--num-prompts", "60")
    assert len(requests) == 60
    assert requests[-1].at_s <= 60 / 4
    assert all(one.ignore_eos and one.num_prompt_tokens and one.session for one in requests)
    assert sum(bool(one.block_hashes) for one in requests) > 50
    chats = made(tmp_path, "--dataset-name", "sharegpt", "--short-slo-ttft-ms", "9")
    assert len(chats) == 1000
    assert all(one.prompt and one.slo_ttft_ms == 9.0 for one in chats)


def test_lengths_of_a_file_stand_for_a_class(tmp_path: Path) -> None:
    """Prompt and answer stay together."""
    file = lengths(tmp_path, "num_prefill_tokens,num_decode_tokens\n100,3\n200,4\n5000,5\n")
    requests = of(made(tmp_path, *SHORT_RUN, "--long-prompts", str(file)), "long")
    assert {(one.num_prompt_tokens, one.max_tokens) for one in requests} == {(100, 3), (200, 4)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_prefill_tokens,x\n1,2\n", "line 1: no column num_decode_tokens"),
        ("num_prefill_tokens,num_decode_tokens\n1,2\n3\n", "line 3, column num_decode_tokens"),
        ("num_prefill_tokens,num_decode_tokens\n1,two\n", "must be a number .got 'two'"),
        ("num_prefill_tokens,num_decode_tokens\n0,2\n", "line 2, column num_prefill_tokens"),
        ("num_prefill_tokens,num_decode_tokens\n1.5,2\n", "must be 1 or more .got '1.5'"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n-1,2,2\n", "column arrived_at"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\nnan,2,2\n", "column arrived_at"),
        ("", "an empty file"),
    ],
)
def test_a_file_that_is_none_is_named_with_line_and_column(
    tmp_path: Path, text: str, said: str
) -> None:
    """So that it can be mended."""
    with pytest.raises(TraceError, match=said):
        list(read_lengths(lengths(tmp_path, text)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"at_s":1,"class":"short","max_tokens":5}', "either `prompt` or `num_prompt_tokens`"),
        (b'{"at_s":-1,"class":"short","max_tokens":5,"prompt":"x"}', "at_s"),
        (b'{"at_s":1,"class":"short","max_tokens":0,"prompt":"x"}', "max_tokens"),
        (b'{"at_s":1,"class":"short","max_tokens":1,"prompt":"x","slo":3}', "slo"),
        (b"{", "truncated"),
    ],
)
def test_a_damaged_trace_is_named_with_its_line(tmp_path: Path, line: bytes, said: str) -> None:
    """And with what is wrong in it."""
    file = tmp_path / "trace.jsonl"
    assert main(["--output", str(file), *SHORT_RUN, "--short-rate", "0", "--long-rate", "0"]) == 0
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(TraceError, match=rf"trace.jsonl, line 2: .*{said}"):
        read_trace(file)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--long-prompts", "5000"), "do not fit into 4096"),
        (("--short-prompts", "many"), "'many' is no number of tokens"),
        (("--long-output", "9-3"), "the lower bound first"),
        (("--on", "0", "--off", "0"), "make no sense"),
        (("--replay", "/nowhere.csv"), "/nowhere.csv: No such file"),
    ],
)
def test_options_that_make_no_trace_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    """With the value that is wrong."""
    assert main(["--output", str(tmp_path / "trace.jsonl"), *options]) == 2
    assert said in capsys.readouterr().err


def test_arrivals_are_drawn(tmp_path: Path) -> None:
    """A picture of the trace that was just made."""
    picture = tmp_path / "arrivals.png"
    made(tmp_path, *SHORT_RUN, "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
