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
    texts = {experiment: golden.resolved(experiment) for experiment in golden.experiments()}
    differences = {experiment: golden.difference(experiment, text) for experiment, text in texts.items()}
    for experiment, difference in differences.items():
        print(difference or f"{golden.golden_file(experiment).name}: unchanged")
        if write:
            golden.golden_file(experiment).write_text(texts[experiment], encoding="utf-8")
    return 0 if write else int(any(differences.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
