"""What an environment holds. Standard library only: other Pythons run the text of this file, names as arguments."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


def environment(names: list[str]) -> dict:
    """{"python": version, "packages": {name: version or None}, "cuda": what torch was built for, or None}."""
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {name: _version(name) for name in names},
        "cuda": _cuda(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cuda() -> str | None:
    """Out of torch's own version.py: importing torch would take seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    facts: dict = {}
    exec(Path(spec.origin).with_name("version.py").read_text(), facts)
    return facts.get("cuda")


if __name__ == "__main__":
    print(json.dumps(environment(sys.argv[1:])))
