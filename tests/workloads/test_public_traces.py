"""Readers of public traces: their formats as published, and errors that say where."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from exp.study.case import Arrivals, WorkloadSpec
from exp.workloads.arxiv import read_arxiv
from exp.workloads.build import build_workload
from exp.workloads.errors import TraceError
from exp.workloads.lengths_file import AZURE, BURSTGPT, Layout, read_lengths
from exp.workloads.mooncake import block_hashes, read_mooncake

AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURSTGPT_HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


def written(folder: Path, *lines: str) -> Path:
    """A file with these lines."""
    file = folder / "trace"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_azure_2023_and_2024(tmp_path: Path) -> None:
    """Seven digits after the point in 2023, an offset in 2024, whole seconds without a point."""
    file = written(
        tmp_path,
        AZURE_HEADER,
        "2023-11-16 18:17:03.9799600,4808,10",
        "2023-11-16 18:17:04.0319600,3180,8",
        "2024-05-10 00:00:00.009930+00:00,2162,5",
        "2024-05-10 02:00:01+02:00,2399,0",
        "2024-05-10 00:00:01+00:00,2399,6",
    )
    rows = list(read_lengths(file, AZURE))
    assert [(row.num_prompt_tokens, row.num_output_tokens) for row in rows] == [
        (4808, 10),
        (3180, 8),
        (2162, 5),
        (2399, 6),
    ]
    times = [row.at_s or 0.0 for row in rows]
    assert times[1] - times[0] == pytest.approx(0.052, abs=1e-6)
    assert times[2] == pytest.approx(
        datetime(2024, 5, 10, tzinfo=timezone.utc).timestamp() + 0.00993
    )
    assert times[3] - times[2] == pytest.approx(0.99007, abs=1e-6)


def test_burstgpt_with_and_without_sessions(tmp_path: Path) -> None:
    """Columns are found by name; requests that failed have no answer and are left out."""
    file = written(
        tmp_path,
        BURSTGPT_HEADER,
        "5,ChatGPT,472,18,490,Conversation log",
        "45,ChatGPT,1087,0,1087,Conversation log",
        "118,GPT-4,417,276,693,API log",
    )
    assert list(read_lengths(file, BURSTGPT)) == [(5.0, 472, 18, ()), (118.0, 417, 276, ())]
    header = BURSTGPT_HEADER.replace("Timestamp,", "Timestamp,Session ID,Elapsed time,")
    file = written(tmp_path, header, "19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log")
    assert list(read_lengths(file, BURSTGPT)) == [(19440110.0, 906, 446, ())]


def test_mooncake_and_its_prefixes(tmp_path: Path) -> None:
    """Blocks of 512 tokens become blocks of 16; the last one counts as far as the prompt goes."""
    file = written(
        tmp_path,
        '{"timestamp": 27482, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 9]}',
        '{"timestamp": 30535, "input_length": 1040, "output_length": 26, "hash_ids": [46, 47, 8]}',
        '{"timestamp": 30535, "input_length": 40, "output_length": 0, "hash_ids": [5]}',
    )
    first, second = read_mooncake(file)
    assert (first.at_s, first.num_prompt_tokens, first.num_output_tokens) == (27.482, 1100, 52)
    hashes, others = block_hashes(first), block_hashes(second)
    assert (len(hashes), len(others)) == (1100 // 16, 1040 // 16)
    assert hashes[:64] == others[:64]
    assert not set(hashes[64:]) & set(others)
    assert len(set(hashes)) == len(hashes)


def test_papers_and_their_abstracts(tmp_path: Path) -> None:
    """As sentences with marks or as texts; from a CSV of lengths just the same."""
    file = written(
        tmp_path,
        '{"article_text": ["one two", "three"], "abstract_text": ["<S> short . </S>"]}',
        '{"article": "aaaa bbbb", "abstract": "cccc"}',
        '{"article": "", "abstract": "of nothing"}',
    )
    assert list(read_arxiv(file, None)) == [(None, 4, 2, ()), (None, 3, 1, ())]
    lengths = tmp_path / "arxiv.csv"
    lengths.write_text("num_prefill_tokens,num_decode_tokens,pd_ratio\n3772,54,69.9\n")
    assert list(read_arxiv(lengths, None)) == [(None, 3772, 54, ())]
    file.write_text('{"article": 5}\n')
    with pytest.raises(TraceError, match=r"trace, line 1: .*article"):
        list(read_arxiv(file, None))


def test_a_window_of_a_service_stays_in_order(tmp_path: Path) -> None:
    """Also where arrivals are drawn: what shares a prefix comes close together."""
    lines = (f"{index},GPT-4,{index},9,9,API log" for index in range(1, 101))
    file = written(tmp_path, BURSTGPT_HEADER, *lines)
    spec = WorkloadSpec(source="burstgpt", path=str(file), num_requests=30)
    sizes = [one.num_prompt_tokens for one in build_workload(spec, 5.0, 3)]
    assert sizes == [(sizes[0] + index - 1) % 100 + 1 for index in range(30)]


def test_long_requests_of_a_trace_are_reported_as_such(tmp_path: Path) -> None:
    """Those too long for the model are left out, and times scaled."""
    file = written(
        tmp_path,
        AZURE_HEADER,
        "2023-11-16 18:17:00.0000000,100,10",
        "2023-11-16 18:17:10.0000000,3000,10",
        "2023-11-16 18:17:20.0000000,9000,10",
        "2023-11-16 18:17:40.0000000,90,10",
    )
    arrivals = Arrivals(kind="trace")
    spec = WorkloadSpec(source="azure", path=str(file), num_requests=3, arrivals=arrivals)
    found = [(one.at_s, one.request_class) for one in build_workload(spec, 1.0, 0)]
    assert found == [(0.0, "short"), (0.5, "long"), (2.0, "short")]


@pytest.mark.parametrize(
    ("layout", "lines", "said"),
    [
        (AZURE, ["Time,ContextTokens,GeneratedTokens"], "line 1: no column TIMESTAMP .found: Time"),
        (AZURE, [AZURE_HEADER, "noon,1,1"], "line 2, column TIMESTAMP: must be a time such as"),
        (AZURE, [AZURE_HEADER, "2023-11-16 18:17:03.x,1,1"], "line 2, column TIMESTAMP"),
        (AZURE, [AZURE_HEADER, "2023-11-16 18:17:03,-1,1"], "ContextTokens: must be 0 or more"),
        (AZURE, [AZURE_HEADER, "2023-11-16 18:17:03,1"], "GeneratedTokens: the row ends before it"),
        (BURSTGPT, [BURSTGPT_HEADER, "5,GPT-4,4,x,8,API log"], "Response tokens: must be a number"),
        (BURSTGPT, [BURSTGPT_HEADER, "inf,GPT-4,4,4,8,API log"], "Timestamp: must be seconds"),
        (BURSTGPT, [""], "an empty file"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(
    tmp_path: Path, layout: Layout, lines: list[str], said: str
) -> None:
    """With file, line, column and value."""
    with pytest.raises(TraceError, match=rf"/trace, .*{said}"):
        list(read_lengths(written(tmp_path, *lines), layout))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "truncated"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 5}', "hash_ids"),
        ('{"timestamp": "noon", "input_length": 5, "output_length": 5, "hash_ids": []}', "timest"),
        ('{"timestamp": 1, "input_length": -5, "output_length": 5, "hash_ids": []}', "input_len"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, said: str) -> None:
    """With file, line and key."""
    good = '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]}'
    with pytest.raises(TraceError, match=rf"trace, line 2: .*{said}"):
        list(read_mooncake(written(tmp_path, good, line)))
