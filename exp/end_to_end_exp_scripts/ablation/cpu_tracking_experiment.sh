#!/usr/bin/env bash
# CPU time of gateway and sidecars by rate (Astrolabe, section 5.4): with --backend emulated that of
# the processes, in the simulation the time that deciding takes.
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" cpu "$@"
