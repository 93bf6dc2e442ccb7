#!/usr/bin/env bash
# Conversations whose turns share their beginnings, on units that cache prefixes.
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" multi_turn "$@"
