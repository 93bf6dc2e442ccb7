"""How much an engine's prefix cache can hold, as its ``/metrics`` page tells."""

from __future__ import annotations

import re

from global_scheduler.prefixes import KV_BLOCK_TOKENS

_CONFIG = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def try_cache_size(page: str) -> int | None:
    """Blocks of ``KV_BLOCK_TOKENS`` tokens; 0 if nothing is cached, None if the page is silent.

    vLLM 0.32 has its cache's configuration in the labels of ``vllm:cache_config_info``.
    """
    config = _CONFIG.search(page)
    if config is None:
        return None
    labels = dict(_LABEL.findall(config[1]))
    if labels.get("enable_prefix_caching") == "False":
        return 0
    num_blocks, block_size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    if not (num_blocks.isdecimal() and block_size.isdecimal()):
        return None
    return int(num_blocks) * int(block_size) // KV_BLOCK_TOKENS
