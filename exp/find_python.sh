#!/bin/sh
# Prints a Python 3.10, 3.11 or 3.12 that can make virtual environments. PYTHON, when set, is the
# only one tried. Ends with 3 and says why when there is none.
# POSIX sh, and nothing from the project: it is also sent over SSH before anything is installed.
fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
seen=""
no_venv=""
for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10 python \
    "$HOME"/.pyenv/versions/3.12.*/bin/python3 "$HOME"/.pyenv/versions/3.11.*/bin/python3 \
    "$HOME"/.pyenv/versions/3.10.*/bin/python3}; do
    version=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue
    seen="$seen $candidate ($version)"
    "$candidate" -c "$fits" 2>/dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        "$candidate" -c 'import sys; print(sys.executable)'
        exit 0
    fi
    no_venv="$candidate"
done
if [ -n "$no_venv" ]; then
    echo "$no_venv has no venv module. On Debian or Ubuntu: apt-get install python3-venv" >&2
else
    echo "No Python 3.10, 3.11 or 3.12 was found (tried:${seen:- none is on the PATH})." >&2
    echo "Install one, or name it: PYTHON=/path/to/python3.12 bash exp/setup.sh" >&2
fi
exit 3
