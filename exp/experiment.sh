#!/usr/bin/env bash
# Runs a study and draws its figures: bash exp/experiment.sh --help
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

python="${PYTHON:-$root/.venv/bin/python}"
if ! command -v "$python" >/dev/null; then
    echo "There is no $python. Install Astrolabe first:" >&2
    echo "  bash exp/setup.sh --install-only --extras exp,analysis" >&2
    exit 3
fi
# Not from the project's folder: files that are named are those of whoever calls.
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m exp.study "$@"
