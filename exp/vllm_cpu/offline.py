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
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

ANY_TOKEN = 1000


class OfflineEngine:
    """A scheduler, and batches that end when the caller says so."""

    def __init__(
        self,
        scheduler_cls: str,
        model_dir: Path,
        *,
        async_scheduling: bool = False,
        num_blocks: int = 4096,
        block_size: int = 16,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 2048,
        policy: str = "fcfs",
    ) -> None:
        """``scheduler_cls`` is the dotted name that ``--scheduler-cls`` takes."""
        init_none_hash(sha256)
        config = VllmConfig(
            model_config=ModelConfig(model=str(model_dir), dtype="bfloat16", max_model_len=2048),
            cache_config=CacheConfig(block_size=block_size, enable_prefix_caching=True),
            device_config=DeviceConfig(device="cpu"),
            scheduler_config=SchedulerConfig(
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                max_model_len=2048,
                is_encoder_decoder=False,
                enable_chunked_prefill=True,
                async_scheduling=async_scheduling,
                scheduler_cls=scheduler_cls,
                policy=policy,
            ),
        )
        config.cache_config.num_gpu_blocks = num_blocks
        # vLLM turns it off on CPUs, for reasons that lie outside the scheduler.
        config.scheduler_config.async_scheduling = async_scheduling
        spec = FullAttentionSpec(
            block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        self.scheduler: Any = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=num_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_size,
            hash_block_size=block_size,
            log_stats=True,
        )
        self._hasher = get_request_block_hasher(block_size, sha256)
        self._in_flight: deque[tuple[Any, list[list[int]]]] = deque()

    def add(self, request_id: str, prompt: list[int], max_tokens: int, priority: int = 0) -> None:
        """Queue a request."""
        parameters = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        self.scheduler.add_request(
            Request(
                request_id=request_id,
                prompt_token_ids=prompt,
                sampling_params=parameters,
                pooling_params=None,
                priority=priority,
                block_hasher=self._hasher,
            )
        )

    def schedule(self) -> Any:
        """Schedule a batch and leave it in flight; returns vLLM's SchedulerOutput."""
        output = self.scheduler.schedule()
        requests = self.scheduler.requests
        sampled = [
            [] if requests[request_id].is_prefill_chunk else [ANY_TOKEN]
            for request_id in output.num_scheduled_tokens
        ]
        self._in_flight.append((output, sampled))
        return output

    def finish_batch(self) -> Any:
        """The oldest batch in flight ends: each request past its prompt gets a token.

        Returns vLLM's EngineCoreOutputs by client.
        """
        output, sampled = self._in_flight.popleft()
        ids = list(output.num_scheduled_tokens)
        return self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=ids,
                req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
                sampled_token_ids=sampled,
            ),
        )

    def step(self) -> Any:
        """Schedule a batch and finish it."""
        output = self.schedule()
        self.finish_batch()
        return output
