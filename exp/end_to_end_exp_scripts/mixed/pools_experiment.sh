#!/usr/bin/env bash
# Short and long requests on one fleet: AdaSplit's pools, fixed ones, prices and no pools.
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" pools "$@"
