#!/usr/bin/env bash
# What wrong predictions cost: errors of lengths times those of step times (Astrolabe, section 5.4).
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" prediction_error "$@"
