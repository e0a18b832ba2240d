#!/usr/bin/env bash
# The smoke run on this machine, from a fresh clone: environment -> data -> training -> export -> report.
#   ./launch/local.sh [Hydra overrides]      e.g. ./launch/local.sh run.name=mine data=files
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
exec "$PY" -m launch.local "$@"
