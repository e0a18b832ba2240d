# Sourced by local.sh and test.sh: leaves a complete environment in .venv and its interpreter in $PY.
#
# There is one environment for both commands (the dev extra included), because local.sh ends with a line that loads the
# exported model in transformers. It is complete when .venv/complete holds the fingerprint of what it was made from:
# the file is removed before an install and written after it, so an interrupted install is done again. A .venv that was
# made by hand is completed, never replaced.
#
#   PYTHON=/path/to/python3.12   which Python makes .venv (default: the first >= 3.11, beginning with 3.11 itself)
#   TORCH=2.14.1                 which torch is installed when .venv is made (default: 2.13.0 without a GPU, else 2.15.0)
#
# pip's own settings (PIP_INDEX_URL, pip.conf ...) are respected. Without a GPU, give it PyTorch's index of CPU builds if
# you can: the default Linux build of torch brings several GB of CUDA libraries.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
PY=$VENV/bin/python
LOG=$VENV/install.log

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

fingerprint() { (cd "$ROOT" && cat pyproject.toml launch/constraints.txt launch/env.sh | cksum; echo "$ROOT"); }

is_complete() { [ -x "$PY" ] && [ -f "$VENV/complete" ] && [ "$(cat "$VENV/complete")" = "$(fingerprint)" ]; }

# A usable Python is new enough and can make environments (Debian and Ubuntu ship venv as a package of its own).
# 3.11 comes first: the constraints were made with it, and the smoke corpus is the standard library of this very Python.
find_python() {
    local python
    for python in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
        "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        echo "$python"
        return
    done
    die "no Python >= 3.11 that can make environments (tried: ${PYTHON:-python3.11 ... python3, python}). Install one" \
        "(Debian, Ubuntu: apt install python3 python3-venv) or name it: PYTHON=/path/to/python3.11 $0"
}

has_gpu() { [[ $(nvidia-smi -L 2>/dev/null) == *GPU* ]]; }

# What pip says goes to the log; a terminal shows its latest line, a file (CI) stays free of it.
pip_install() {
    local line ok=yes
    "$PY" -m pip install --disable-pip-version-check -c "$ROOT/launch/constraints.txt" "$@" 2>&1 | tee -a "$LOG" | while IFS= read -r line; do
        [ ! -t 1 ] || printf '\r\033[K    %.100s' "$line"
    done || ok=no
    [ ! -t 1 ] || printf '\r\033[K'
    [ $ok = yes ] || { tail -n 15 "$LOG" >&2; die "pip could not install: $*. The whole output is in $LOG"; }
}

make_environment() {
    local started=$SECONDS python torch=2.13.0
    ! has_gpu || torch=2.15.0
    torch=${TORCH:-$torch}

    if [ -x "$PY" ] && { [ -f "$VENV/complete" ] || [ ! -f "$LOG" ]; }; then # changed since, or made by hand
        echo "environment: bringing .venv up to date with pyproject.toml and launch/constraints.txt"
        rm -f "$VENV/complete"
    else
        python=$(find_python) || exit 1
        echo "environment: making .venv with $("$python" -V), once; takes about 3 minutes"
        rm -rf "$VENV"
        mkdir "$VENV"
        touch "$LOG" # first of all: it tells an interrupted .venv of ours from one made by hand
        "$python" -m venv "$VENV"
    fi

    echo "environment: 1/2 torch $torch"
    pip_install "torch==$torch"
    echo "environment: 2/2 torchtitan, the other packages, this project"
    pip_install "torch==$torch" -e "$ROOT[dev]"

    fingerprint >"$VENV/complete"
    echo "environment: complete after $((SECONDS - started)) s; later starts find it ready"
}

# The lock lets a second terminal wait for the first instead of installing into the same folder.
ensure_environment() {
    ! is_complete || return 0
    [ "$(uname -s)" = Linux ] || die "this needs Linux (elsewhere: a Linux container, or WSL): torchtitan imports" \
        "triton, which has no wheels for $(uname -s)"
    (
        flock -n 9 || { echo "environment: waiting for another start that is making it"; flock 9; }
        is_complete || make_environment
    ) 9>"$ROOT/.venv.lock"
}

ensure_environment
