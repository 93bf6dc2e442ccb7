#!/usr/bin/env bash
# Answers within latency goals: goodput, with requests that cannot be in time waiting, shed or sent.
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" slo "$@"
