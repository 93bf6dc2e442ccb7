"""From a trained model to the folder that serving loads: ONNX with 8-bit weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor, nn

from length_estimation.inputs import Batch
from length_estimation.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    ModelConfig,
    sha256,
)
from length_estimation.regressor import LengthRegressor
from length_estimation.whole_output import appearing_at_once

OPSET = 17
OUTPUTS = ["log_quantiles", "log_mean"]
LARGEST_DIFFERENCE = 1e-3
"""Between PyTorch's answers and those of the exported model, before its weights are rounded."""


class ExportError(Exception):
    """The exported model does not answer as the trained one does."""


class _Outputs(nn.Module):
    """The regressor with its outputs in order, as a graph needs them."""

    def __init__(self, regressor: LengthRegressor) -> None:
        super().__init__()
        self.regressor = regressor
        self.eval()  # the exporter restores the mode of what it is given

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, numbers: Tensor, model_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        answer = self.regressor(input_ids, attention_mask, numbers, model_ids)
        return answer["log_quantiles"], answer["log_mean"]


def export(
    regressor: LengthRegressor,
    tokenizer: Tokenizer,
    config: ModelConfig,
    sample: Batch,
    folder: Path,
    card: str,
) -> ModelConfig:
    """Write a model folder; it appears whole or not at all.

    Returns:
        The configuration with the files' digests.

    Raises:
        ExportError: see there.
    """
    with appearing_at_once(folder, replace=True) as new:
        new.mkdir()
        _write_model(regressor, sample, new / MODEL_FILE)
        tokenizer.save(str(new / TOKENIZER_FILE))
        digests = {name: sha256((new / name).read_bytes()) for name in (MODEL_FILE, TOKENIZER_FILE)}
        config = msgspec.structs.replace(config, sha256=digests)
        (new / CONFIG_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
        (new / CARD_FILE).write_text(card)
    return config


def _write_model(regressor: LengthRegressor, sample: Batch, file: Path) -> None:
    regressor.cpu().float()
    # Attention of another kind has no form in ONNX that the exporter knows for all encoders.
    regressor.encoder.set_attn_implementation("eager")
    inputs = tuple(torch.from_numpy(array) for array in sample)
    full = file.with_suffix(".full.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own exporters
        torch.onnx.export(
            _Outputs(regressor),
            inputs,
            str(full),
            input_names=list(Batch._fields),
            output_names=OUTPUTS,
            dynamic_axes={
                **{name: {0: "questions"} for name in (*Batch._fields, *OUTPUTS)},
                "input_ids": {0: "questions", 1: "tokens"},
                "attention_mask": {0: "questions", 1: "tokens"},
            },
            opset_version=OPSET,
            dynamo=False,
        )
    _compare(regressor, sample, full)
    quantize_dynamic(
        str(full),
        str(file),
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    full.unlink()


def _compare(regressor: LengthRegressor, sample: Batch, file: Path) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    # Fewer questions of fewer tokens than the model was traced with: its shapes must be free.
    for batch in (sample, _first(sample)):
        got = session.run(OUTPUTS, batch._asdict())
        with torch.inference_mode():
            want = _Outputs(regressor)(*(torch.from_numpy(array) for array in batch))
        for name, ours, theirs in zip(OUTPUTS, got, want, strict=True):
            worst = float(np.abs(ours - theirs.numpy()).max())
            if not worst < LARGEST_DIFFERENCE:
                raise ExportError(f"{name} of the exported model is off by {worst:g}")


def _first(batch: Batch) -> Batch:
    return Batch(
        batch.input_ids[:1], batch.attention_mask[:1], batch.numbers[:1], batch.model_ids[:1]
    )
