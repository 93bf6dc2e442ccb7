"""Replaying a snapshot tells what then really happens on the emulated engine."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from predictor.simulator.replay import FinishTimes, finish_times
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from tests.emulator.process import TINY_MODEL, RunningEmulator, run_emulator
from tests.emulator.test_engine import complete
from wire.model_config import ModelConfig
from wire.snapshot import SequenceState


def test_replay_agrees_with_the_engine(tmp_path: Path) -> None:
    """With known lengths and no noise, the end of a newcomer is predicted within a tenth.

    It never ends sooner; where this process or the engine lost its core, the next one tells. So it
    does where requests came so far apart that no two of them ever had to wait.
    """
    model = ModelConfig.model_validate(TINY_MODEL | {"max_batch_size": 5})
    ratios: list[float] = []
    with run_emulator(tmp_path, max_batch_size=5) as emulator:
        for attempt in range(20):
            compared = newcomer(emulator, model, attempt)
            if compared is not None:
                predicted, observed_s = compared
                assert predicted.queue_s > 0.1
                ratios.append(observed_s / predicted.e2e_s)
            if len(ratios) == 5 or min(ratios, default=math.inf) <= 1.1:
                break
    assert min(ratios) == pytest.approx(1.0, abs=0.1)


def newcomer(
    emulator: RunningEmulator, model: ModelConfig, attempt: int
) -> tuple[FinishTimes, float] | None:
    """What is predicted for one that has to queue, and the seconds that it took; None if it would
    not have had to. No attempt has a prompt of another one."""
    with ThreadPoolExecutor(8) as pool:
        # Seven requests for five places.
        others = [
            pool.submit(complete, emulator, f"{7 * attempt + index:03d}" * 200, 100 + 40 * index)
            for index in range(7)
        ]
        while len(emulator.snapshot().waiting) < 2:
            if all(other.done() for other in others):
                return None
            time.sleep(0.005)
        snapshot = emulator.snapshot()
        new = SequenceState(request_id="new", num_prompt_tokens=250, num_tokens=250, max_tokens=120)
        # The replay takes a while, too; the newcomer would have queued meanwhile.
        now_s = time.time()
        step_time = RooflineStepTime(model, find_gpu("A30"))
        predicted = finish_times(snapshot, {}, new, step_time, now_s)
        complete(emulator, "abcdefghijklmnopqrst"[attempt] * 1000, 120)
        observed_s = time.time() - now_s
        for other in others:
            other.result()
    assert predicted is not None
    return predicted, observed_s
