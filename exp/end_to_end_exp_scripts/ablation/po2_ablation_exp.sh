#!/usr/bin/env bash
# The power of k: how many sidecars are asked for each request (Astrolabe, section 5.4).
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" po2 "$@"
