"""Model folders whose ONNX models are real but so small that what they answer is known.

The median is ``exp(MEDIAN_AT_ONE_TOKEN + SLOPE * log1p(num_prompt_tokens))``; the quantiles are
those of a log-normal distribution of a fixed width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from length_estimation.inputs import NUMBERS, InputConfig
from length_estimation.model_folder import FORMAT, ModelConfig, TrainedOn, sha256
from wire.length import LengthQuestion

LEVELS = [0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95]
NORMAL = [NormalDist().inv_cdf(level) for level in LEVELS]
MEDIAN_AT_ONE_TOKEN = 3.0
SLOPE = 0.4
WIDTH = 0.7
MODELS = ["known-model", "model-that-fails"]
"""Questions about the last one end the model's run with an error."""
LONGEST_PROMPT = 1_000_000
"""The model's outputs are NaN beyond."""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "are", "you", "?"]
INPUT_CONFIG = InputConfig(
    window=64, tail=16, context_tokens=16, start_id=2, separator_id=3, pad_id=0, models=MODELS
)


def median_tokens(question: LengthQuestion) -> float:
    """What the model says."""
    return math.exp(MEDIAN_AT_ONE_TOKEN + SLOPE * math.log1p(question.num_prompt_tokens))


def mean_tokens(question: LengthQuestion) -> float:
    """That of the log-normal distribution."""
    return median_tokens(question) * math.exp(WIDTH**2 / 2)


def write_model_folder(
    folder: Path,
    *,
    normal: Sequence[float] = NORMAL,
    num_slow_rounds: int = 0,
    model: bytes | None = None,
) -> Path:
    """A folder as training exports it; thirty slow rounds take about a millisecond."""
    folder.mkdir(parents=True, exist_ok=True)
    words = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    files = {
        "tokenizer.json": words.to_str().encode(),
        "model.onnx": model or _model(normal, num_slow_rounds).SerializeToString(),
    }
    config = ModelConfig(
        format=FORMAT,
        name="tiny",
        base_model="none",
        date="2026-01-01",
        quantile_levels=LEVELS,
        inputs=INPUT_CONFIG,
        trained_on=TrainedOn(source="nothing", num_examples=0, test_prompts_sha256=""),
        sha256={name: sha256(content) for name, content in files.items()},
    )
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_bytes(msgspec.json.encode(config))
    return folder


def _model(normal: Sequence[float], num_slow_rounds: int) -> onnx.ModelProto:
    constants = {
        "zero": np.array([0], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
        "true": np.array(True),
        "num_rounds": np.array(num_slow_rounds, dtype=np.int64),
        "slope": np.array(SLOPE, dtype=np.float32),
        "start": np.array(MEDIAN_AT_ONE_TOKEN, dtype=np.float32),
        "spread": np.array([WIDTH * z for z in normal], dtype=np.float32),
        "tail": np.array(WIDTH**2 / 2, dtype=np.float32),
        "longest": np.array(math.log1p(LONGEST_PROMPT), dtype=np.float32),
        "nothing": np.array(0.0, dtype=np.float32),
        "by_model": np.zeros(len(MODELS), dtype=np.float32),  # a row too few: the last one fails
        "wider": np.zeros((len(NUMBERS), 512), dtype=np.float32),
        "square": np.zeros((512, 512), dtype=np.float32),
        "narrower": np.zeros((512, 1), dtype=np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["numbers", "wider"], ["wide"]),
        helper.make_node("Loop", ["num_rounds", "true", "wide"], ["slow"], body=_slow_round()),
        helper.make_node("MatMul", ["slow", "narrower"], ["slow_0"]),
        helper.make_node("Slice", ["numbers", "zero", "one", "one"], ["log_prompt"]),
        helper.make_node("Mul", ["log_prompt", "slope"], ["sloped"]),
        helper.make_node("Sub", ["longest", "log_prompt"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["nan_without_room"]),
        helper.make_node("Mul", ["nan_without_room", "nothing"], ["nan_or_0"]),
        helper.make_node("Gather", ["by_model", "model_ids"], ["of_model"]),
        helper.make_node("Unsqueeze", ["of_model", "one"], ["model_0"]),
        helper.make_node("Sum", ["sloped", "start", "slow_0", "nan_or_0", "model_0"], ["median"]),
        helper.make_node("Add", ["median", "spread"], ["log_quantiles"]),
        helper.make_node("Add", ["median", "tail"], ["log_mean_column"]),
        helper.make_node("Squeeze", ["log_mean_column", "one"], ["log_mean"]),
    ]
    integers, floats = TensorProto.INT64, TensorProto.FLOAT
    describe = helper.make_tensor_value_info
    inputs = [
        describe("input_ids", integers, ["questions", "tokens"]),
        describe("attention_mask", integers, ["questions", "tokens"]),
        describe("numbers", floats, ["questions", len(NUMBERS)]),
        describe("model_ids", integers, ["questions"]),
    ]
    outputs = [
        describe("log_quantiles", floats, ["questions", len(normal)]),
        describe("log_mean", floats, ["questions"]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _slow_round() -> onnx.GraphProto:
    """The body of a loop that takes time and changes nothing."""
    describe, floats = helper.make_tensor_value_info, TensorProto.FLOAT
    return helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "square"], ["after"]),
            helper.make_node("Identity", ["goes_on"], ["still_goes_on"]),
        ],
        "slow_round",
        [
            describe("round", TensorProto.INT64, []),
            describe("goes_on", TensorProto.BOOL, []),
            describe("before", floats, None),
        ],
        [describe("still_goes_on", TensorProto.BOOL, []), describe("after", floats, None)],
    )
