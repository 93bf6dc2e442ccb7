#!/usr/bin/env bash
# Llumnix with migration of running requests and without it, and prediction (Astrolabe, section
# 5.5), on A100s. Migration exists in the simulation only.
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" llumnix "$@"
