"""Stock Vidur's simulation of a cluster, in a process of its own: Vidur numbers what it makes.

``python -m exp.twin.validation.vidur_cluster FOLDER`` reads ``QUESTION`` in the folder and writes
``ANSWERS`` there. Nothing of Vidur is changed; its step times come from tables, not from its own
profiles, which would have to be downloaded.
"""

from __future__ import annotations

import csv
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from vidur.config import (
    CacheConfig,
    ClusterConfig,
    MetricsConfig,
    RandomForrestExecutionTimePredictorConfig,
    RoundRobinGlobalSchedulerConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
    TraceRequestGeneratorConfig,
)
from vidur.events import RequestArrivalEvent
from vidur.execution_time_predictor import ExecutionTimePredictorRegistry
from vidur.simulator import Simulator

from exp.twin.validation.vidur_question import ANSWERS, QUESTION, Latencies, Question
from predictor.backends.vidur_predictor import TablePredictor, UnitReplicaConfig, replica_config
from predictor.step_time.gpus import find_gpu
from predictor.step_time.vidur_tables import RooflineTimes, build_tables
from wire.model_config import load_model_config

DATE = "2024-01-01"
"""Vidur replays the requests of one day."""


class _Unwritten(SimulationConfig):  # type: ignore[misc]
    """Not kept in a file, for which a description of any model is too much."""

    def write_config_to_file(self) -> None:
        """Nothing."""


def simulate(question: Question, folder: Path) -> list[Latencies]:
    """Play the requests; what each met, in their order."""
    model, gpu = load_model_config(Path(question.model_config)), find_gpu(question.gpu)
    replica = replica_config(model)
    tables = build_tables(RooflineTimes(model, gpu), model, gpu, question.limits)
    _feed(TablePredictor(tables, replica))
    simulator = Simulator(_config(question, replica, folder))
    requests = _requests(simulator)
    # Vidur draws its own figures when a simulation has ended, which nobody looks at here.
    simulator._write_output = lambda: None
    simulator.run()
    return [
        Latencies(
            ttft_ms=(request.prefill_completed_at - request.arrived_at) * 1e3,
            e2e_ms=request.e2e_time * 1e3,
            num_restarts=request.num_restarts,
        )
        for request in requests
    ]


def _feed(predictor: TablePredictor) -> None:
    """Let the simulator's registry give this predictor, whatever it is asked to make."""
    kind = RandomForrestExecutionTimePredictorConfig.get_type()
    ExecutionTimePredictorRegistry.unregister(kind)
    ExecutionTimePredictorRegistry.register(kind, partial(_given, predictor))


def _given(predictor: TablePredictor, **_: Any) -> TablePredictor:
    return predictor


def _config(question: Question, replica: UnitReplicaConfig, folder: Path) -> SimulationConfig:
    limits = question.limits
    return _Unwritten(
        log_level="warning",
        cluster_config=ClusterConfig(
            num_replicas=question.num_units,
            replica_config=replica,
            cache_config=CacheConfig(
                block_size=limits.block_size,
                num_blocks=limits.num_gpu_blocks,
                watermark_blocks_fraction=0.0,
            ),
            global_scheduler_config=RoundRobinGlobalSchedulerConfig(),
            replica_scheduler_config=SarathiSchedulerConfig(
                batch_size_cap=limits.max_num_seqs, chunk_size=limits.max_num_batched_tokens
            ),
        ),
        request_generator_config=TraceRequestGeneratorConfig(
            trace_file=str(_trace(question, folder)),
            date=DATE,
            prefill_scale_factor=1.0,
            time_scale_factor=1.0,
            max_tokens=limits.max_model_len,
        ),
        execution_time_predictor_config=RandomForrestExecutionTimePredictorConfig(),
        metrics_config=MetricsConfig(
            write_metrics=False,
            enable_chrome_trace=False,
            store_plots=False,
            output_dir=str(folder / "output"),
        ),
    )


def _trace(question: Question, folder: Path) -> Path:
    path = folder / "trace.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("Date", "Time", "PromptTokenCount", "CompletionTokenCount"))
        rows.writerows((DATE, *request) for request in question.requests)
    return path


def _requests(simulator: Simulator) -> list[Any]:
    """Those that the simulator has made of the trace, in its order."""
    events = [event for _, event in simulator._event_queue]
    requests = [event._request for event in events if isinstance(event, RequestArrivalEvent)]
    return sorted(requests, key=lambda request: request.id)


def main() -> None:
    """See the top."""
    folder = Path(sys.argv[1])
    question = msgspec.json.decode((folder / QUESTION).read_bytes(), type=Question)
    # Vidur sets its own logger to DEBUG and formats a line for every request's end.
    logging.getLogger("vidur").setLevel(logging.WARNING)
    answers = simulate(question, folder)
    (folder / ANSWERS).write_bytes(msgspec.json.encode(answers))


if __name__ == "__main__":
    main()
