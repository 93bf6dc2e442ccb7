#!/usr/bin/env bash
# The main experiment (Astrolabe, figure 6 and section 5.3): 12 A30 with Llama-2-7B under ShareGPT,
# all schedulers: load-latency curves, capacity under TTFT p99 of 3 s and 10 s, and how they grow.
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" main "$@"
