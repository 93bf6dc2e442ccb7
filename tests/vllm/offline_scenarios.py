"""Drives vLLM's own scheduler classes offline, with and without the plug-in.

Runs in vLLM's environment, which has no pytest: prints one JSON object with what each scenario
saw, for ``test_plugin_offline.py`` to judge.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from exp.vllm_cpu.offline import AMPLE, OfflineEngine
from predictor.errors import StateUnavailable
from predictor.vllm_plugin.shared_memory import SnapshotReader, snapshot_path
from wire.snapshot import EngineSnapshot

PLUGIN = "predictor.vllm_plugin.scheduler.AstrolabeScheduler"
STOCK = {
    False: "vllm.v1.core.sched.scheduler.Scheduler",
    True: "vllm.v1.core.sched.async_scheduler.AsyncScheduler",
}
MODEL_DIR = Path(sys.argv[1])
ENGINE_ID = f"test-offline-{os.getpid()}"


def read() -> dict[str, Any] | None:
    """The published snapshot as plain data, or None if there is none."""
    reader = SnapshotReader(ENGINE_ID)
    try:
        snapshot = msgspec.msgpack.decode(reader.read(), type=EngineSnapshot)
    except StateUnavailable:
        return None
    finally:
        reader.close()
    return msgspec.convert(msgspec.to_builtins(snapshot), dict[str, Any])


def trace(scheduler_cls: str, is_async: bool) -> dict[str, Any]:
    """Every batch of a run whose KV cache is too small, and vLLM's own prefix cache statistics."""
    limits = replace(
        AMPLE, async_scheduling=is_async, num_gpu_blocks=39, max_num_batched_tokens=128
    )
    engine = OfflineEngine(scheduler_cls, MODEL_DIR, limits)
    rng = random.Random(1)
    shared = [rng.randrange(1000) for _ in range(48)]
    for index in range(12):
        prompt = shared + [rng.randrange(1000) for _ in range(rng.randrange(1, 60))]
        engine.add(f"r{index}", prompt, max_tokens=40)
    batches, preempted, queries, hits = [], 0, 0, 0
    if is_async:
        engine.schedule()
    while engine.scheduler.get_num_unfinished_requests():
        output = engine.schedule()
        batches.append(dict(output.num_scheduled_tokens))
        preempted += len(output.preempted_req_ids or ())
        for outputs in engine.finish_batch().values():
            queries += outputs.scheduler_stats.prefix_cache_stats.queries
            hits += outputs.scheduler_stats.prefix_cache_stats.hits
    engine.scheduler.shutdown()
    return {"batches": batches, "preempted": preempted, "queries": queries, "hits": hits}


def contents(is_async: bool) -> dict[str, Any]:
    """What is published with a batch in flight, next to what vLLM itself knows at that moment."""
    limits = replace(AMPLE, async_scheduling=is_async, max_num_seqs=2, num_gpu_blocks=99)
    engine = OfflineEngine(PLUGIN, MODEL_DIR, limits)
    at_start = read()
    prompt = list(range(100))
    for name in ("a", "b", "c"):
        engine.add(name, prompt, max_tokens=20)
    engine.step()
    engine.schedule()
    if is_async:
        engine.schedule()
    scheduler = engine.scheduler
    requests = list(scheduler.running) + list(scheduler.waiting)
    manager = scheduler.kv_cache_manager
    result = {
        "class": type(scheduler).__name__,
        "at_start": at_start,
        "snapshot": read(),
        "tokens": {r.request_id: [r.num_tokens, r.num_computed_tokens] for r in requests},
        "blocks": {r.request_id: len(manager.get_block_ids(r.request_id)[0]) for r in requests},
        "num_free_blocks": manager.block_pool.get_num_free_blocks(),
        "hit": manager.get_computed_blocks(scheduler.requests["c"])[1],
    }
    engine.finish_batch()
    result["after_update"] = read()
    scheduler.shutdown()
    result["after_shutdown"] = read()
    return result


def preempted_in_flight() -> dict[str, Any] | None:
    """What is published when a prompt is preempted of which a chunk is in flight."""
    limits = replace(
        AMPLE, async_scheduling=True, max_num_batched_tokens=88, num_gpu_blocks=9, max_model_len=144
    )
    engine = OfflineEngine(PLUGIN, MODEL_DIR, limits)
    engine.add("a", list(range(80)), max_tokens=2)
    engine.add("b", list(range(100, 164)), max_tokens=1)
    engine.schedule()
    engine.schedule()
    snapshot = read()
    engine.scheduler.shutdown()
    return snapshot


def priorities() -> list[str]:
    """The order of waiting requests under the priority policy."""
    limits = replace(AMPLE, max_num_seqs=1, scheduling_policy="priority")
    engine = OfflineEngine(PLUGIN, MODEL_DIR, limits)
    for name, priority in (("low", 9), ("high", 1), ("middle", 5), ("first", 0)):
        engine.add(name, [1, 2, 3], max_tokens=5, priority=priority)
    engine.schedule()
    snapshot = read()
    engine.scheduler.shutdown()
    assert snapshot
    return [sequence["request_id"] for sequence in snapshot["running"] + snapshot["waiting"]]


def sabotage(break_it: Callable[[Any], None] | None, engine_id: str = ENGINE_ID) -> dict[str, Any]:
    """A request's way through an engine whose plug-in is broken, or cannot even start."""
    log: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vllm.astrolabe")
    logger.addHandler(handler)
    os.environ["ASTROLABE_ENGINE_ID"] = engine_id
    engine = OfflineEngine(PLUGIN, MODEL_DIR)
    engine.add("a", list(range(50)), max_tokens=10)
    engine.step()
    observer = engine.scheduler._astrolabe._observer
    if break_it:
        break_it(observer)
    num_steps = 1
    while engine.scheduler.get_num_unfinished_requests():
        engine.step()
        num_steps += 1
    result = {"num_steps": num_steps, "snapshot": read()}
    engine.scheduler.shutdown()
    logger.removeHandler(handler)
    os.environ["ASTROLABE_ENGINE_ID"] = ENGINE_ID
    return {**result, "errors": [line for line in log if "cannot publish" in line]}


def _break_capture(observer: Any) -> None:
    observer._capture._num_free_blocks = None


def _close_file(observer: Any) -> None:
    os.close(observer._publisher._writer._fd)
    # Shutting down must survive it too, and must not close a number that others use by then.
    observer._publisher._writer._fd = 10_000


def main() -> None:
    """Run all scenarios."""
    os.environ["ASTROLABE_ENGINE_ID"] = ENGINE_ID
    modes = {"sync": False, "async": True}
    result = {
        "stock": {name: trace(STOCK[mode], mode) for name, mode in modes.items()},
        "plugin": {name: trace(PLUGIN, mode) for name, mode in modes.items()},
        "contents": {name: contents(mode) for name, mode in modes.items()},
        "preempted_in_flight": preempted_in_flight(),
        "priorities": priorities(),
        "sabotage": {
            "healthy": sabotage(None),
            "capture": sabotage(_break_capture),
            "file": sabotage(_close_file),
            "settings": sabotage(None, engine_id="no/such/id"),
        },
    }
    snapshot_path(ENGINE_ID).unlink(missing_ok=True)  # one scenario breaks its removal
    print(json.dumps(result))


if __name__ == "__main__":
    main()
