"""The command that starts one real vLLM server on this CPU, with the plug-in loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SERVED_MODEL_NAME = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start: its arguments, and what to change in the environment of the caller."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()

    def full_env(self, base: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of the process, made from the caller's."""
        kept = {key: value for key, value in base.items() if key not in self.unset}
        return {**kept, **self.env}


def vllm_command(
    python: Path,
    model_dir: Path,
    port: int,
    engine_id: str,
    *,
    host: str = "127.0.0.1",
    kv_cache_bytes: int = 128 * 1024 * 1024,
    block_size: int = 32,
    max_model_len: int = 2048,
    max_num_seqs: int = 64,
    max_num_batched_tokens: int = 512,
    num_threads: int = 1,
    async_scheduling: bool | None = None,
    extra_args: tuple[str, ...] = (),
) -> Command:
    """A vLLM server at ``port`` whose snapshots are readable as ``shm:ENGINE_ID``.

    ``python`` is the interpreter of vLLM's environment. ``block_size`` must be a multiple of 32 on
    CPUs. ``async_scheduling`` None leaves the choice to vLLM.
    """
    argv = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", host, "--port", str(port)),
        *("--model", str(model_dir), "--served-model-name", SERVED_MODEL_NAME),
        *("--scheduler-cls", "predictor.vllm_plugin.scheduler.AstrolabeScheduler"),
        *("--max-model-len", str(max_model_len), "--max-num-seqs", str(max_num_seqs)),
        *("--max-num-batched-tokens", str(max_num_batched_tokens)),
        *("--kv-cache-memory-bytes", str(kv_cache_bytes)),
        *("--block-size", str(block_size)),
        # A worker process and compiled graphs cost start-up time and gain nothing on a CPU.
        "--enforce-eager",
        *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
    ]
    if async_scheduling is not None:
        argv.append("--async-scheduling" if async_scheduling else "--no-async-scheduling")
    env = {
        "ASTROLABE_ENGINE_ID": engine_id,
        "OMP_NUM_THREADS": str(num_threads),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    # --kv-cache-memory-bytes and this variable exclude each other.
    return Command([*argv, *extra_args], env, unset=("VLLM_CPU_KVCACHE_SPACE",))
