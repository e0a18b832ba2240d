"""Starts runs: local.sh -> env.sh (environment) -> local.py -> ranks of train; test.sh -> env.sh -> all checks."""
