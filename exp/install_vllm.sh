#!/usr/bin/env bash
# Installs vLLM into .venv-vllm, an environment of its own: bash exp/install_vllm.sh VERSION [PIP_ARGS]
# Run again it does nothing; after an interrupted try it starts over. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-vllm
vllm="vllm==$1"
stamp="$venv/astrolabe-installed"
want="$PWD $vllm" # a virtual environment knows its own path, so a moved checkout needs a new one

if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then exit; fi
if [ -L "$venv" ]; then
    echo "$venv is a link and does not hold $vllm; nothing behind a link is cleared, so remove the" \
        "link first" >&2
    exit 1
fi
"$(sh exp/find_python.sh)" -m venv --clear "$venv"
# Unquoted on purpose: the last argument may hold several of pip's.
# shellcheck disable=SC2086
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${2:-} "$vllm" >&2
echo "$want" >"$stamp"
