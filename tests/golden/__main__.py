"""Compares the golden files with the configuration of today, or rewrites them (see __init__.py)."""

from __future__ import annotations

import argparse
import sys

from tests import golden


def main(arguments: list[str]) -> int:
    """Exit code: 1 where a file differs and is not rewritten."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description=golden.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="rewrite the files")
    write = parser.parse_args(arguments).write
    texts = {path: make() for path, make in golden.golden_texts().items()}
    differences = {path: golden.difference(path, text) for path, text in texts.items()}
    for path, difference in differences.items():
        print(difference or f"{path.name}: unchanged")
        if write:
            path.write_text(texts[path], encoding="utf-8")
    return 0 if write else int(any(differences.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
