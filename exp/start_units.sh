#!/usr/bin/env bash
# Starts vLLM units on this host: bash exp/start_units.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-.venv/bin/python}"
if ! command -v "$python" >/dev/null; then
    echo "There is no $python. Install Astrolabe first: bash exp/setup.sh --install-only" >&2
    exit 3
fi
exec "$python" -m exp.start_units "$@"
