#!/bin/sh
# Looks whether the vLLM that engines run is new enough for Astrolabe's plug-in:
#   sh exp/check_vllm.sh OLDEST OFFERED FOLDER PROGRAM...
# Each PROGRAM is `vllm`, a path to it, or a Python that runs it as a module, seen from FOLDER. Prints
# what was found; ends with 1 and says what to do where it is missing or older than OLDEST. OFFERED is
# the version that --install-vllm would bring.
# POSIX sh, and nothing from the project: it is also sent over SSH before anything is copied.
oldest=$1 offered=$2 folder=$3
shift 3
if cd "$folder" 2>/dev/null; then # not there before the first deployment
    PATH="$PWD/.venv-vllm/bin:$PATH"
fi
ask='
from importlib import metadata
names = metadata.packages_distributions().get("vllm")
print(metadata.version(names[0]) if names else "")
'
advice="Astrolabe's plug-in takes $oldest or later. Install one there, or deploy with --install-vllm, which installs $offered"

version_of() { # of the vLLM that a program runs; its metadata tell at once, importing it takes seconds
    case "${1##*/}" in
        python*) "$1" -c "$ask" ;;
        *)
            first=$(head -c 256 "$1" | tr -d '\000' | head -n 1)
            case "$first" in
                # Unquoted on purpose: it may be `/usr/bin/env python3`.
                '#!'*python*) ${first#'#!'} -c "$ask" ;;
                *) "$1" --version 2>/dev/null | tail -n 1 | sed 's/.* //' ;;
            esac
            ;;
    esac
}

for program in "$@"; do
    path=$(command -v "$program")
    if [ -z "$path" ]; then
        echo "vLLM is not installed: there is no program $program. $advice" >&2
        exit 1
    fi
    found=$(version_of "$path")
    if [ -z "$found" ]; then
        echo "vLLM is not installed for $path. $advice" >&2
        exit 1
    fi
    if ! echo "$found $oldest" | awk '{ split($1, f, "."); split($2, o, ".")
        exit !(f[1] + 0 > o[1] + 0 || (f[1] + 0 == o[1] + 0 && f[2] + 0 >= o[2] + 0)) }'; then
        echo "vLLM $found at $path is too old. $advice" >&2
        exit 1
    fi
    echo "vLLM $found at $path"
done
