#!/usr/bin/env bash
# Requests in bursts: gamma-distributed gaps (Astrolabe, section 5.4).
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" burstiness "$@"
