#!/usr/bin/env bash
# Ranks of this machine by torchrun's agent, on GPUs or CPUs; with the same command on other nodes, a run over all of them.
#   ./launch/torchrun.sh experiment=smoke
#   ./launch/torchrun.sh --nodes 2 --node-rank 0 --head gpu1:29400 experiment=mine      on gpu1, and with 1 on the other
#   ./launch/torchrun.sh --help
# PYTHON=/path/to/python: the interpreter (default: that of .venv, else `python`).
set -euo pipefail
CODE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$CODE/launch/environment.sh"
[ -n "${PYTHON:-}" ] || { PYTHON=$CODE/.venv/bin/python && [ -x "$PYTHON" ]; } || PYTHON=python
export PYTHONPATH="$CODE${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
exec "$PYTHON" -m launch.torchrun "$@"
