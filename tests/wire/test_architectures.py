"""The table of known architectures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from wire.architectures import ARCHITECTURES, Architecture, known_id
from wire.model_config import SIZES, ModelConfig, load_model_config

CONFIG = Path(__file__).parents[2] / "config"
PUBLISHED_PARAMETERS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B": 70_553_706_496,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "mistralai/Mixtral-8x22B-v0.1": 140_620_634_112,
    "mistralai/Mixtral-8x22B-Instruct-v0.1": 140_630_071_296,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen2-0.5B": 494_032_768,
    "Qwen/Qwen2-1.5B": 1_543_714_304,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2-72B": 72_706_203_648,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}


MAY_BE_LEFT_OUT = ("tie_word_embeddings", "num_experts", "num_experts_per_tok")
"""Of a file, though the architecture says it."""


def num_parameters(name: str, one: Architecture) -> int:
    """All weights of a model, tied ones once, with what its family adds to Llama's layers."""
    q_width = one.num_attention_heads * one.head_dim
    qkv_width = q_width + 2 * one.num_kv_heads * one.head_dim
    attention = one.hidden_size * (qkv_width + q_width)
    feed_forward = 3 * one.hidden_size * one.intermediate_size * one.num_experts
    if one.num_experts > 1:
        feed_forward += one.hidden_size * one.num_experts
    of_family = qkv_width if "/Qwen2" in name else 2 * one.head_dim if "/Qwen3" in name else 0
    layer = attention + feed_forward + 2 * one.hidden_size + of_family
    embeddings = one.vocab_size * one.hidden_size * (1 if one.tie_word_embeddings else 2)
    return one.num_layers * layer + one.hidden_size + embeddings


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_each_size_has_exactly_the_published_parameters(name: str) -> None:
    """No width, depth, vocabulary or tie can be wrong without changing the sum."""
    assert num_parameters(name, ARCHITECTURES[name]) == PUBLISHED_PARAMETERS[name]


def test_each_architecture_was_checked() -> None:
    """Tuned models have the shape of their base, whatever their longest sequence."""

    def shape(one: Architecture) -> tuple[object, ...]:
        return tuple(asdict(one)[name] for name in (*SIZES, *MAY_BE_LEFT_OUT))

    checked = {shape(ARCHITECTURES[name]) for name in PUBLISHED_PARAMETERS}
    assert {name for name, one in ARCHITECTURES.items() if shape(one) not in checked} == set()


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*_config.json")), ids=lambda path: path.stem)
def test_the_files_that_come_along_agree(path: Path) -> None:
    """What they say of the architecture is what the table says."""
    said = load_model_config(path)
    known = ARCHITECTURES[str(known_id(said.model_name))]
    for name in (*SIZES, "dtype", "tie_word_embeddings"):
        assert getattr(said, name) == getattr(known, name), name
    assert said.max_model_len <= known.max_model_len


@pytest.mark.parametrize(
    ("ours", "vidurs"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-70b-hf"),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-3-8B"),
        ("meta-llama/Meta-Llama-3-70B", "meta-llama/Llama-3-70B"),
    ],
)
def test_vidur_knows_them_as_they_are_here(ours: str, vidurs: str) -> None:
    """All but vocabulary and longest sequence, which Vidur does not use."""
    model_config = pytest.importorskip("vidur.config.model_config")
    theirs = model_config.BaseModelConfig.create_from_name(vidurs)
    known = ARCHITECTURES[ours]
    assert (known.num_layers, known.hidden_size) == (theirs.num_layers, theirs.embedding_dim)
    assert known.intermediate_size == theirs.mlp_hidden_dim
    heads = (theirs.num_q_heads, theirs.num_kv_heads)
    assert (known.num_attention_heads, known.num_kv_heads) == heads


def test_every_one_makes_a_configuration() -> None:
    """With the three fields that no architecture can say."""
    for name, known in ARCHITECTURES.items():
        served = {"model_name": name, "max_batch_size": 1, "chunk_size": 1}
        ModelConfig.model_validate({**asdict(known), **served})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("NousResearch/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("/models/llama-2-7B-hf/", "meta-llama/Llama-2-7b-hf"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
        ("meta-llama/Llama-2-7b-hf-mine", None),
        ("Qwen/Qwen2.5-7", None),
        ("", None),
    ],
)
def test_a_model_is_known_by_the_last_part_of_its_name(name: str, found: str | None) -> None:
    """Whoever publishes it and wherever it lies; nothing that only resembles it."""
    assert known_id(name) == found
