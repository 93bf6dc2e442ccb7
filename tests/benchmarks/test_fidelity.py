"""Predictions of a recorded run, where the truth is known."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from benchmarks.fidelity.predictions import Outcome, predict_run
from benchmarks.fidelity.recording import Run, SentRecord
from benchmarks.fidelity.report import report
from exp.emulator.export import SnapshotExporter
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from predictor.step_time.fitted import FittedStepTime
from wire.model_config import ModelConfig, load_model_config
from wire.snapshot import EngineLimits, EngineSnapshot, StepRecord

PROJECT = Path(__file__).resolve().parents[2]
MODEL_CONFIG = "config/smollm_config.json"
TRUTH = FittedStepTime(24, (0.02, 0.0, 0.0011, 0.001, 0.0, 1e-6, 0.0, 0.0))
"""Steps of this engine take exactly as long."""
MAX_TOKENS = 60


class Engine:
    """An engine in simulated time, and the record of all that happens to it."""

    def __init__(self, model: ModelConfig) -> None:
        self._scheduler = Scheduler(
            EngineLimits(
                max_num_seqs=model.max_batch_size,
                max_num_batched_tokens=model.chunk_size,
                max_model_len=model.max_model_len,
                block_size=model.block_size,
                num_gpu_blocks=400,
            )
        )
        self.steps: list[StepRecord] = []
        self._exporter = SnapshotExporter("unit-1", "model", self._scheduler, self._keep)
        self._exporter.idle(0.0)
        self._sent_at: dict[str, tuple[float, EngineSnapshot]] = {}
        self._first_at: dict[str, float] = {}
        self._ended_at: dict[str, float] = {}
        self._sequences: list[Sequence] = []

    def _keep(self, payload: bytes) -> None:
        snapshot = msgspec.msgpack.decode(payload, type=EngineSnapshot)
        self.steps += snapshot.recent_steps[-1:] if not snapshot.in_flight else []
        self._snapshot = msgspec.structs.replace(snapshot, recent_steps=[])

    def serve(self, arrivals: list[tuple[float, Sequence]]) -> None:
        """Until all have ended. Who arrives during a step waits for its end."""
        coming = list(arrivals)
        now = 0.0
        while coming or self._scheduler.sequences:
            if not self._scheduler.sequences:
                now = max(now, coming[0][0])
                self._note(coming[:1])
            while coming and coming[0][0] <= now:
                self._scheduler.add(coming.pop(0)[1])
            batch = self._scheduler.schedule()
            self._exporter.batch_started(batch, now)
            took_s = TRUTH.step_s(batch.shape())
            self._note([item for item in coming if item[0] <= now + took_s])
            result = self._scheduler.update(batch)
            self._exporter.batch_ended(batch.shape(), now, took_s)
            now += took_s
            self._exporter.idle(now)
            self._first_at |= {
                seq.request_id: now for seq in result.sampled if seq.num_output_tokens == 1
            }
            self._ended_at |= {seq.request_id: now for seq in result.finished}

    def _note(self, arriving: list[tuple[float, Sequence]]) -> None:
        for sent_at, seq in arriving:
            self._sent_at[seq.request_id] = (sent_at, self._snapshot)
            self._sequences.append(seq)

    def run(self) -> Run:
        """What a benchmark would have recorded."""
        return Run(
            engine="simulated",
            model_config=MODEL_CONFIG,
            gpu="CPU",
            load_average=0.0,
            num_failed=0,
            requests=[self._record(seq) for seq in self._sequences],
            steps={"unit-1": self.steps},
        )

    def _record(self, seq: Sequence) -> SentRecord:
        sent_at, snapshot = self._sent_at[seq.request_id]
        return SentRecord(
            request_id=seq.request_id,
            load="steady",
            unit="unit-1",
            sent_at=sent_at,
            num_prompt_tokens=seq.num_prompt_tokens,
            num_output_tokens=seq.num_output_tokens,
            max_tokens=MAX_TOKENS,
            ttft_ms=(self._first_at[seq.request_id] - sent_at) * 1e3,
            e2e_ms=(self._ended_at[seq.request_id] - sent_at) * 1e3,
            snapshot=snapshot,
        )


@pytest.fixture(scope="module")
def run() -> Run:
    """Sixty requests at a rate that makes some wait."""
    rng = random.Random(0)
    arrivals, now = [], 1.0
    for index in range(60):
        now += rng.expovariate(2.0)
        seq = Sequence(
            request_id=f"r{index}",
            num_prompt_tokens=rng.randrange(10, 600),
            max_tokens=MAX_TOKENS,
            output_length=rng.randrange(2, 80),
            arrival_time=now,
        )
        arrivals.append((now, seq))
    engine = Engine(load_model_config(PROJECT / MODEL_CONFIG))
    engine.serve(arrivals)
    return engine.run()


@pytest.fixture(scope="module")
def outcomes(run: Run) -> list[Outcome]:
    """The predictions of a sidecar that knows the engine's step times from the start."""
    return predict_run(run, TRUTH, load_model_config(PROJECT / MODEL_CONFIG), lambda: None)


def test_replays_that_know_everything_are_exact(outcomes: list[Outcome]) -> None:
    """With step times, lengths and arrivals known nothing is left to miss."""
    for outcome in outcomes:
        replayed = outcome.predicted["true_lengths_and_arrivals"]
        assert replayed.e2e_ms == pytest.approx(outcome.request.e2e_ms, rel=0.01)
        assert replayed.ttft_ms == pytest.approx(outcome.request.ttft_ms, rel=0.01)


def test_what_ifs_are_exact_until_something_arrives(run: Run, outcomes: list[Outcome]) -> None:
    """A request after which none came was predicted to the millisecond; others end no earlier."""
    undisturbed = [o for o in outcomes if not run.arrivals_during(o.request)]
    assert undisturbed
    for outcome in undisturbed:
        predicted = outcome.predicted["true_lengths_uncalibrated"]
        assert predicted.e2e_ms == pytest.approx(outcome.request.e2e_ms, rel=0.01)
    for outcome in outcomes:
        predicted = outcome.predicted["true_lengths_uncalibrated"]
        assert predicted.e2e_ms <= outcome.request.e2e_ms * 1.01


def test_report_has_all_figures(run: Run) -> None:
    """Errors by what was known, by load, and of the step-time models."""
    tables, figures = report(run, PROJECT)
    assert "fitted_online" in tables
    known, guessed = figures["true_lengths_and_arrivals"], figures["estimated"]
    assert set(known) == {"e2e_mape", "e2e_median_ape", "ttft_mape", "tpot_mape"}
    assert known["e2e_mape"] < guessed["e2e_mape"]
    assert figures["step_time"]["fitted"]["mape"] < figures["step_time"]["roofline"]["mape"]
