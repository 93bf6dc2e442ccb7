#!/usr/bin/env bash
# Qwen2-7B, and other traces with --trace burstgpt=FILE or azure=FILE (Astrolabe, section 5.6).
# Options: --help. A look in minutes: --quick.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../experiment.sh" extension "$@"
