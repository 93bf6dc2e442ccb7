#!/usr/bin/env bash
# Unequal units: A30 with A100, and with H100.
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" hetero "$@"
