"""vLLM's own scheduler without an engine around it: the caller plays the model.

For checks and measurements of the scheduler and the plug-in. Runs in vLLM's environment.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from wire.snapshot import EngineLimits

ANY_TOKEN = 1000
STOP_TOKEN = 1001

AMPLE = EngineLimits(
    max_num_seqs=64,
    max_num_batched_tokens=2048,
    max_model_len=2048,
    block_size=16,
    num_gpu_blocks=4095,
    enable_prefix_caching=True,
)
"""Limits to start from."""


class OfflineEngine:
    """A scheduler, and batches that end when the caller says so."""

    def __init__(self, scheduler_cls: str, model_dir: Path, limits: EngineLimits = AMPLE) -> None:
        """``scheduler_cls`` is the dotted name that ``--scheduler-cls`` takes."""
        init_none_hash(sha256)
        config = _config(scheduler_cls, model_dir, limits)
        block_size = limits.block_size
        spec = FullAttentionSpec(
            block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        self.scheduler: Any = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=config.cache_config.num_gpu_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_size,
            hash_block_size=block_size,
            log_stats=True,
        )
        self._hasher = get_request_block_hasher(block_size, sha256)
        self._in_flight: deque[tuple[Any, list[bool]]] = deque()
        self._output_lengths: dict[str, int] = {}

    @property
    def num_in_flight(self) -> int:
        """Batches that have not ended."""
        return len(self._in_flight)

    def add(
        self,
        request_id: str,
        prompt: list[int],
        max_tokens: int,
        priority: int = 0,
        *,
        output_length: int | None = None,
        arrival_time: float | None = None,
    ) -> Any:
        """Queue a request and return it; the model stops after ``output_length`` tokens."""
        self._output_lengths[request_id] = output_length or max_tokens + 1
        request = Request(
            request_id=request_id,
            prompt_token_ids=prompt,
            sampling_params=SamplingParams(max_tokens=max_tokens, stop_token_ids=[STOP_TOKEN]),
            pooling_params=None,
            arrival_time=arrival_time,
            priority=priority,
            block_hasher=self._hasher,
        )
        self.scheduler.add_request(request)
        return request

    def abort(self, request_id: str) -> None:
        """The client of a request has gone; nothing happens if the request has ended."""
        self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)

    def schedule(self) -> Any:
        """Schedule a batch and leave it in flight; returns vLLM's SchedulerOutput."""
        output = self.scheduler.schedule()
        requests = self.scheduler.requests
        samples = [not requests[name].is_prefill_chunk for name in output.num_scheduled_tokens]
        self._in_flight.append((output, samples))
        return output

    def finish_batch(self) -> Any:
        """The oldest batch in flight ends: each request past its prompt gets a token.

        Returns vLLM's EngineCoreOutputs by client.
        """
        output, samples = self._in_flight.popleft()
        ids = list(output.num_scheduled_tokens)
        return self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=ids,
                req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
                sampled_token_ids=[
                    [self._next_token(request_id)] if has_token else []
                    for request_id, has_token in zip(ids, samples, strict=True)
                ],
            ),
        )

    def step(self) -> Any:
        """Schedule a batch and finish it."""
        output = self.schedule()
        self.finish_batch()
        return output

    def _next_token(self, request_id: str) -> int:
        request = self.scheduler.requests.get(request_id)
        if request is None:  # has ended meanwhile: nobody reads what it still gets
            return ANY_TOKEN
        is_last = request.num_output_tokens + 1 >= self._output_lengths[request_id]
        return STOP_TOKEN if is_last else ANY_TOKEN


def _config(scheduler_cls: str, model_dir: Path, limits: EngineLimits) -> VllmConfig:
    config = VllmConfig(
        model_config=ModelConfig(
            model=str(model_dir), dtype="bfloat16", max_model_len=limits.max_model_len
        ),
        cache_config=CacheConfig(
            block_size=limits.block_size, enable_prefix_caching=limits.enable_prefix_caching
        ),
        device_config=DeviceConfig(device="cpu"),
        scheduler_config=SchedulerConfig(
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_model_len=limits.max_model_len,
            is_encoder_decoder=False,
            enable_chunked_prefill=limits.enable_chunked_prefill,
            long_prefill_token_threshold=limits.long_prefill_token_threshold,
            async_scheduling=limits.async_scheduling,
            scheduler_cls=scheduler_cls,
            policy=limits.scheduling_policy,
        ),
    )
    config.cache_config.num_gpu_blocks = limits.num_gpu_blocks + 1  # and vLLM's null block
    # vLLM changes these on CPUs, for reasons that lie outside the scheduler.
    config.scheduler_config.async_scheduling = limits.async_scheduling
    config.scheduler_config.max_num_batched_tokens = limits.max_num_batched_tokens
    config.scheduler_config.enable_chunked_prefill = limits.enable_chunked_prefill
    return config
