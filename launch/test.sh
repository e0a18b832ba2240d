#!/usr/bin/env bash
# All checks, from a fresh clone: lint, format, types, tests. Runs every check even if one fails; exits 1 if any did.
#   ./launch/test.sh [pytest arguments]      e.g. ./launch/test.sh -k muon
#   ./launch/test.sh --battery               what takes longer too, such as runs on a real SLURM
set -euo pipefail
unset CDPATH # with it, cd may lead elsewhere
cd "$(dirname "$(readlink -f "$0")")/.."
source launch/env.sh
[ -w . ] || export RUFF_NO_CACHE=true PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -p no:cacheprovider"

case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' launch/test.sh; exit ;; esac
[ "${1:-}" != --battery ] || { shift; set -- -m "" "$@"; }
failed=()

check() { # name, command...
    local name=$1 started=$SECONDS verdict=ok
    shift
    printf '\n== %s\n' "$name"
    "$@" || { verdict=FAILED; failed+=("$name"); }
    printf '== %s: %s (%d s)\n' "$name" "$verdict" $((SECONDS - started))
}

check lint "$PY" -m ruff check .
check format "$PY" -m ruff format --check .
check types "$PY" -m pyright --pythonpath "$PY"
check tests "$PY" -m pytest -n 2 --dist loadfile "$@" # each of them starts ranks: 2 cores are full

[ ${#failed[@]} -eq 0 ] || { printf '\nfailed: %s\n' "${failed[*]}"; exit 1; }
printf '\nall checks passed\n'
