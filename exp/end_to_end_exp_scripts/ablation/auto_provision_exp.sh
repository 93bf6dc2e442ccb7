#!/usr/bin/env bash
# Units that are started when needed: off, reactive, preemptive (Astrolabe, section 5.5).
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" auto_provision "$@"
