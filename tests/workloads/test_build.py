"""Workloads of cases: the same for a seed, at the rate asked for, as long as their source."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from exp.study.case import Arrivals, WorkloadSpec
from exp.workloads import sharegpt_texts
from exp.workloads.build import build_workload
from exp.workloads.errors import TraceError, WorkloadError
from exp.workloads.request import BLOCK_TOKENS, WorkloadRequest
from exp.workloads.sharegpt_texts import chained_hashes, first_chats, sessions

SYNTHETIC = WorkloadSpec(source="synthetic", num_requests=500)


def made(seed: int = 1, rate_per_s: float = 10.0, **changes: Any) -> list[WorkloadRequest]:
    """The requests of a changed specification."""
    return build_workload(msgspec.structs.replace(SYNTHETIC, **changes), rate_per_s, seed)


@pytest.mark.parametrize("source", ["synthetic", "sharegpt", "conversations", "mixed"])
def test_a_seed_makes_a_workload(source: str) -> None:
    """The same again, another with another seed; in order, with ids of their own."""
    first, again, other = (made(seed, source=source) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == len({one.request_id for one in first}) == 500
    assert all(before.at_s <= after.at_s for before, after in pairwise(first))


def test_a_rate_moves_requests_but_does_not_change_them() -> None:
    """So that rates of a curve differ in nothing else."""
    slow, fast = made(rate_per_s=5.0), made(rate_per_s=20.0)
    assert [_size(one) for one in slow] == [_size(one) for one in fast]
    assert [one.at_s for one in fast] == pytest.approx([one.at_s / 4 for one in slow])


def _size(one: WorkloadRequest) -> tuple[int, int]:
    return one.num_prompt_tokens, one.num_output_tokens


@settings(max_examples=20)
@given(rate=st.floats(0.1, 100), burstiness=st.floats(0.2, 5), seed=st.integers(0, 99))
def test_the_rate_is_exactly_the_one_asked_for(rate: float, burstiness: float, seed: int) -> None:
    """Whatever a seed draws, as in vLLM's benchmark."""
    kind = Arrivals(kind="gamma", burstiness=burstiness)
    requests = made(seed, rate, num_requests=50, arrivals=kind)
    assert requests[-1].at_s == pytest.approx(50 / rate)


def test_gaps_are_as_bursty_as_asked_for() -> None:
    """A quarter of the shape is twice the variation; Poisson has none to set."""
    for arrivals, variation in (
        (Arrivals(kind="gamma", burstiness=0.25), 2.0),
        (Arrivals(kind="poisson", burstiness=0.25), 1.0),
    ):
        times = [one.at_s for one in made(num_requests=5_000, arrivals=arrivals)]
        gaps = [after - before for before, after in pairwise(times)]
        assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(variation, rel=0.1)


def test_a_diurnal_rate_swings_around_its_mean() -> None:
    """The first half of a period has more by the integral of the sine."""
    arrivals = Arrivals(kind="diurnal", period_s=100.0, depth=0.8)
    times = [one.at_s for one in made(num_requests=10_000, rate_per_s=100.0, arrivals=arrivals)]
    in_first_half = sum(time % 100 < 50 for time in times)
    assert in_first_half / len(times) == pytest.approx(0.5 + 0.8 / 3.1416, abs=0.02)


def test_on_and_off_phases_keep_the_mean_rate() -> None:
    """What OFF phases lack, ON phases have more; a share of the rate may remain."""
    arrivals = Arrivals(kind="on_off", on_s=10.0, off_s=30.0, off_share=0.2)
    times = [one.at_s for one in made(num_requests=8_000, arrivals=arrivals)]
    in_on = sum(time % 40 >= 30 for time in times)
    assert in_on / (len(times) - in_on) == pytest.approx(10 / (30 * 0.2), rel=0.1)
    assert times[-1] == pytest.approx(800, rel=0.05)


def test_long_requests_are_mixed_in() -> None:
    """Their share and lengths are those asked for; with ON and OFF phases only they come and go.

    Chats with long prompts are reported as long, too.
    """
    spec: dict[str, Any] = {"source": "mixed", "prompt_tokens": "2000-3000", "num_requests": 2_000}
    for arrivals in (Arrivals(), Arrivals(kind="on_off", on_s=5.0, off_s=5.0)):
        requests = made(**spec, arrivals=arrivals)
        drawn = [one for one in requests if not one.prompt]
        assert len(drawn) == pytest.approx(200, rel=0.25)
        assert all(2000 <= one.num_prompt_tokens <= 3000 for one in drawn)
        for one in requests:
            assert (one.request_class == "long") == (one.num_prompt_tokens >= 1_000)
    assert all(one.at_s % 10 >= 5 for one in drawn)


def test_chats_are_sharegpts() -> None:
    """None twice before all have been; those that the length estimator has not seen come first."""
    requests = made(source="sharegpt", num_requests=1_200)
    unseen = {chat.prompt for chat in first_chats(None) if chat.is_unseen}
    prompts = [one.prompt for one in requests]
    assert len(set(prompts)) == len(prompts)
    first = next(index for index, prompt in enumerate(prompts) if prompt not in unseen)
    assert not any(prompt in unseen for prompt in prompts[first:])
    assert 900 < first < 1_100
    assert 200 < statistics.median(one.num_output_tokens for one in requests) < 350
    assert all(one.num_prompt_tokens + one.num_output_tokens <= 4096 for one in requests)
    assert requests[0].num_prompt_tokens == -(-len((prompts[0] or "").encode()) // 4)


def test_a_tokenizer_counts_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here one whose tokens are words, and which would cut texts short if it were let."""
    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    words.enable_truncation(5)
    words.save(str(tmp_path / "tokenizer.json"))
    said = [("human", "a b c d e f g"), ("gpt", "h i"), ("human", "j"), ("gpt", "k l m")]
    entry = {"id": "x_0", "conversations": [{"from": who, "value": text} for who, text in said]}
    file = tmp_path / "sharegpt.json"
    file.write_bytes(msgspec.json.encode([entry]))
    monkeypatch.setattr(sharegpt_texts, "packaged_file", lambda: file)
    (chat,) = made(source="sharegpt", num_requests=1, tokenizer=str(tmp_path))
    assert _size(chat) == (7, 2)
    turns = made(source="conversations", num_requests=2, tokenizer=str(tmp_path))
    assert {_size(turn) for turn in turns} == {(4 + 7 + 4, 2), (4 + 7 + 4 + 2 + 4 + 1 + 4, 3)}


def test_a_turn_finds_all_that_was_said_before_it() -> None:
    """Each turn's blocks, answer included, are the first ones of the next turn's prompt."""
    by_session = defaultdict(list)
    for one in made(source="conversations", num_requests=2_000, rate_per_s=1.0):
        by_session[one.session].append(one)
        size = one.num_prompt_tokens + one.num_output_tokens
        assert len(one.block_hashes) == size // BLOCK_TOKENS
        assert size <= 4096
    turns = [pair for each in by_session.values() for pair in pairwise(each)]
    assert len(turns) > 1_000
    for before, after in turns:
        assert after.num_prompt_tokens >= before.num_prompt_tokens + before.num_output_tokens
        assert after.block_hashes[: len(before.block_hashes)] == before.block_hashes
        assert 10.0 <= after.at_s - before.at_s <= 30.0
    first = {each[0].block_hashes[:1] for each in by_session.values()}
    assert len(first) > 0.9 * len(by_session)


def test_conversations_keep_up_the_rate_from_the_beginning() -> None:
    """Sessions are under way already: each quarter of the time has about as many requests."""
    requests = made(source="conversations", num_requests=4_000, rate_per_s=40.0)
    assert requests[-1].at_s <= 100
    for quarter in range(4):
        found = sum(quarter <= one.at_s / 25 < quarter + 1 for one in requests)
        assert found == pytest.approx(1_000, rel=0.15)


@given(tokens=st.binary(max_size=400), index=st.integers(0, 399), flip=st.integers(1, 255))
def test_hashes_tell_texts_apart_from_where_they_differ(
    tokens: bytes, index: int, flip: int
) -> None:
    """Equal up to the block with the first difference, then never again."""
    hashes = chained_hashes(tokens)
    assert len(hashes) == len(tokens) // 64
    assert all(0 <= one < 2**63 for one in hashes)
    if index < len(tokens):
        changed = bytearray(tokens)
        changed[index] ^= flip
        others = chained_hashes(bytes(changed))
        same = min(index // 64, len(hashes))
        assert others[:same] == hashes[:same]
        assert not set(others[same:]) & set(hashes[same:])


def test_hashes_of_sharegpt_do_not_collide() -> None:
    """As many as there are beginnings: a block is told by all that stands before it."""
    rng = random.Random(3)
    for session in rng.sample(sessions(None, 4096), 200):
        assert len(set(session.block_hashes)) == len(session.block_hashes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_tokens": "4000"}, "do not fit into 4096"),
        ({"prompt_tokens": "many"}, "'many' is no number of tokens"),
        ({"arrivals": Arrivals(kind="trace")}, "has no recorded times"),
        ({"source": "conversations", "arrivals": Arrivals(kind="trace")}, "has no recorded times"),
        ({"source": "azure"}, "needs the path of a file"),
        ({"source": "azure", "path": "/nowhere.csv"}, "/nowhere.csv: No such file"),
        ({"source": "sharegpt", "max_model_len": 1}, "nothing of ShareGPT fits into 1 token"),
        ({"source": "sharegpt", "tokenizer": "/nowhere"}, "no tokenizer at /nowhere"),
        ({"arrivals": Arrivals(kind="on_off", on_s=0.0)}, "off_share must be above 0"),
        ({"arrivals": Arrivals(kind="on_off", on_s=-1.0)}, "make no sense"),
    ],
)
def test_a_specification_that_cannot_be_met_is_refused(changes: dict[str, Any], said: str) -> None:
    """With what is wrong with it."""
    with pytest.raises(WorkloadError, match=said):
        made(**changes)


def csv(folder: Path, *rows: str) -> str:
    """A file of lengths."""
    file = folder / "lengths.csv"
    file.write_text("\n".join(("arrived_at,num_prefill_tokens,num_decode_tokens", *rows)) + "\n")
    return str(file)


def test_recorded_times_are_scaled_to_the_rate(tmp_path: Path) -> None:
    """Gaps keep their proportions; the seed chooses the stretch."""
    path = csv(tmp_path, *(f"{100 + index**2},{10 + index},5" for index in range(20)))
    spec: dict[str, Any] = {"source": "lengths", "path": path, "arrivals": Arrivals(kind="trace")}
    whole = made(**spec, num_requests=20, rate_per_s=2.0)
    assert [one.num_prompt_tokens for one in whole] == list(range(10, 30))
    assert whole[0].at_s == 0.0
    assert whole[-1].at_s == pytest.approx(9.5)
    assert whole[2].at_s == pytest.approx(4 * whole[1].at_s)
    starts = {made(seed, **spec, num_requests=10)[0].num_prompt_tokens for seed in range(20)}
    assert len(starts) > 5
    assert starts <= set(range(10, 21))
    with pytest.raises(TraceError, match="20 of its requests fit, not 21"):
        made(**spec, num_requests=21)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    """What was read before is kept only as long as the file stays the same."""
    spec: dict[str, Any] = {"source": "lengths", "num_requests": 3}
    assert {one.num_prompt_tokens for one in made(path=csv(tmp_path, "0,7,1"), **spec)} == {7}
    file = Path(csv(tmp_path, "0,8,1"))
    assert {one.num_prompt_tokens for one in made(path=str(file), **spec)} == {8}


def test_times_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    """All at once, or none at all."""
    spec: dict[str, Any] = {
        "source": "lengths",
        "num_requests": 2,
        "arrivals": Arrivals(kind="trace"),
    }
    with pytest.raises(TraceError, match="arrive all at once, at 3 s"):
        made(path=csv(tmp_path, "3,1,1", "3,1,1"), **spec)
    file = tmp_path / "untimed.csv"
    file.write_text("num_prefill_tokens,num_decode_tokens\n1,1\n1,1\n")
    with pytest.raises(TraceError, match=r"untimed\.csv tells no times"):
        made(path=str(file), **spec)
