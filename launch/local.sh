#!/usr/bin/env bash
# The smoke run on this machine, from a fresh clone: environment -> data -> training -> export -> report.
#   ./launch/local.sh [Hydra overrides]      e.g. ./launch/local.sh run.name=mine data=files
set -euo pipefail
unset CDPATH # with it, cd may lead elsewhere
cd "$(dirname "$(readlink -f "$0")")/.."
[ "$OLDPWD" -ef . ] || echo "relative paths start in $PWD" >&2
source launch/env.sh
exec "$PY" -m launch.local "$@"
