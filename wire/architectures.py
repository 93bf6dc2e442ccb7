"""Architectures of common open-weight models, by their Hugging Face ids.

The figures are those of each model's own ``config.json`` on Hugging Face. They were compared with
LitGPT 0.5.13 (``litgpt/config.py``) and Vidur 0.0.26 (``vidur/config/model_config.py``), and give
exactly the numbers of parameters that are published.

Only decoders with gated feed-forward layers are here, in which every layer is like the next: dense
ones, and mixtures of experts without an expert that all tokens share.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """What of a model's configuration follows from the model; the names are ``ModelConfig``'s."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    max_model_len: int
    """What vLLM takes without ``--max-model-len``."""
    dtype: str = "bfloat16"
    """Of the published weights."""
    num_experts: int = 1
    """Feed-forward networks of ``intermediate_size`` a layer."""
    num_experts_per_tok: int = 1


LLAMA_2_SIZES = {
    "7b": (32, 4096, 11008, 32, 32, 128),
    "13b": (40, 5120, 13824, 40, 40, 128),
    "70b": (80, 8192, 28672, 64, 8, 128),
}
"""Layers, hidden and intermediate size, attention heads, KV heads, width of a head."""
LLAMA_3_SIZES = {
    "1B": (16, 2048, 8192, 32, 8, 64),
    "3B": (28, 3072, 8192, 24, 8, 128),
    "8B": (32, 4096, 14336, 32, 8, 128),
    "70B": (80, 8192, 28672, 64, 8, 128),
}
QWEN_2_SIZES = {
    "0.5B": (24, 896, 4864, 14, 2, 64),
    "1.5B": (28, 1536, 8960, 12, 2, 128),
    "3B": (36, 2048, 11008, 16, 2, 128),
    "7B": (28, 3584, 18944, 28, 4, 128),
    "14B": (48, 5120, 13824, 40, 8, 128),
    "32B": (64, 5120, 27648, 40, 8, 128),
    "72B": (80, 8192, 29568, 64, 8, 128),
}
"""Of Qwen2 and Qwen2.5."""
QWEN_3_SIZES = {
    "0.6B": (28, 1024, 3072, 16, 8, 128),
    "1.7B": (28, 2048, 6144, 16, 8, 128),
    "4B": (36, 2560, 9728, 32, 8, 128),
    "8B": (36, 4096, 12288, 32, 8, 128),
    "14B": (40, 5120, 17408, 40, 8, 128),
    "32B": (64, 5120, 25600, 64, 8, 128),
}
MIXTRAL_SIZES = {
    "8x7B": (32, 4096, 14336, 32, 8, 128),
    "8x22B": (56, 6144, 16384, 48, 8, 128),
}
"""The intermediate size of a mixture is that of one expert."""
QWEN_3_MOE_SIZES = {
    "30B-A3B": (48, 2048, 768, 32, 4, 128),
    "235B-A22B": (94, 4096, 1536, 64, 4, 128),
}
SMOLLM_2_SIZES = {
    "135M": (30, 576, 1536, 9, 3, 64),
    "360M": (32, 960, 2560, 15, 5, 64),
    "1.7B": (24, 2048, 8192, 32, 32, 64),
}


def _llama_2(size: str) -> Architecture:
    return Architecture(*LLAMA_2_SIZES[size], 32_000, False, 4_096, dtype="float16")


def _llama_3(size: str, max_model_len: int) -> Architecture:
    return Architecture(*LLAMA_3_SIZES[size], 128_256, size in ("1B", "3B"), max_model_len)


def _mistral(vocab_size: int, max_model_len: int) -> Architecture:
    return Architecture(32, 4096, 14336, 32, 8, 128, vocab_size, False, max_model_len)


def _qwen_2(size: str, max_model_len: int) -> Architecture:
    is_small = size in ("0.5B", "1.5B", "3B")
    vocab_size = 151_936 if is_small else 152_064
    return Architecture(*QWEN_2_SIZES[size], vocab_size, is_small, max_model_len)


def _qwen_3(size: str, max_model_len: int) -> Architecture:
    is_small = size in ("0.6B", "1.7B", "4B")
    return Architecture(*QWEN_3_SIZES[size], 151_936, is_small, max_model_len)


def _mixtral(size: str, vocab_size: int) -> Architecture:
    max_model_len = 32_768 if size == "8x7B" else 65_536
    return Architecture(
        *MIXTRAL_SIZES[size],
        vocab_size,
        False,
        max_model_len,
        num_experts=8,
        num_experts_per_tok=2,
    )


def _qwen_3_moe(size: str, max_model_len: int) -> Architecture:
    return Architecture(
        *QWEN_3_MOE_SIZES[size],
        151_936,
        False,
        max_model_len,
        num_experts=128,
        num_experts_per_tok=8,
    )


def _smollm_2(size: str) -> Architecture:
    return Architecture(*SMOLLM_2_SIZES[size], 49_152, True, 8_192)


_TUNED = ("", "-Instruct")
_SHORTER_QWEN_2 = ("0.5B", "3B")
"""Of Qwen2.5's base models."""

ARCHITECTURES = {
    **{f"meta-llama/Llama-2-{size}-hf": _llama_2(size) for size in LLAMA_2_SIZES},
    **{f"meta-llama/Llama-2-{size}-chat-hf": _llama_2(size) for size in LLAMA_2_SIZES},
    **{
        f"meta-llama/{family}-{size}{tuned}": _llama_3(size, longest)
        for family, sizes, longest in (
            ("Meta-Llama-3", ("8B", "70B"), 8_192),
            ("Llama-3.1", ("8B", "70B"), 131_072),
            ("Llama-3.2", ("1B", "3B"), 131_072),
        )
        for size in sizes
        for tuned in _TUNED
    },
    "meta-llama/Llama-3.3-70B-Instruct": _llama_3("70B", 131_072),
    # The first version's attention looks back 4,096 tokens; within them it is like the others'.
    **{f"mistralai/Mistral-7B{tuned}-v0.1": _mistral(32_000, 4_096) for tuned in _TUNED},
    "mistralai/Mistral-7B-Instruct-v0.2": _mistral(32_000, 32_768),
    **{f"mistralai/Mistral-7B{tuned}-v0.3": _mistral(32_768, 32_768) for tuned in _TUNED},
    **{f"Qwen/Qwen2-{size}": _qwen_2(size, 131_072) for size in ("0.5B", "1.5B", "7B", "72B")},
    **{
        f"Qwen/Qwen2-{size}-Instruct": _qwen_2(size, 32_768)
        for size in ("0.5B", "1.5B", "7B", "72B")
    },
    **{
        f"Qwen/Qwen2.5-{size}": _qwen_2(size, 32_768 if size in _SHORTER_QWEN_2 else 131_072)
        for size in QWEN_2_SIZES
    },
    **{f"Qwen/Qwen2.5-{size}-Instruct": _qwen_2(size, 32_768) for size in QWEN_2_SIZES},
    **{f"Qwen/Qwen3-{size}": _qwen_3(size, 40_960) for size in QWEN_3_SIZES},
    **{f"Qwen/Qwen3-{size}-Base": _qwen_3(size, 32_768) for size in QWEN_3_SIZES if size != "32B"},
    "Qwen/Qwen3-4B-Instruct-2507": _qwen_3("4B", 262_144),
    **{f"mistralai/Mixtral-8x7B{tuned}-v0.1": _mixtral("8x7B", 32_000) for tuned in _TUNED},
    "mistralai/Mixtral-8x22B-v0.1": _mixtral("8x22B", 32_000),
    "mistralai/Mixtral-8x22B-Instruct-v0.1": _mixtral("8x22B", 32_768),
    **{f"Qwen/Qwen3-{size}": _qwen_3_moe(size, 40_960) for size in QWEN_3_MOE_SIZES},
    **{
        f"HuggingFaceTB/SmolLM2-{size}{tuned}": _smollm_2(size)
        for size in SMOLLM_2_SIZES
        for tuned in _TUNED
    },
}
"""By Hugging Face id."""


def known_id(model_name: str) -> str | None:
    """The id in ``ARCHITECTURES`` of a model with this name.

    Only the last part of names is compared, without regard to case and to the prefix that Meta has
    dropped: ``/models/llama-3.1-8b`` and ``NousResearch/Meta-Llama-3.1-8B`` are
    ``meta-llama/Llama-3.1-8B``. None for a name that is no known model's.
    """
    wanted = _essence(model_name)
    return next((name for name in ARCHITECTURES if _essence(name) == wanted), None)


def _essence(model_name: str) -> str:
    return model_name.rstrip("/").rpartition("/")[2].lower().removeprefix("meta-")
