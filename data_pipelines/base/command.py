"""Command lines that take Hydra overrides. Their help says what there is to choose from, without importing Hydra."""

from __future__ import annotations

import argparse
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def overrides_parser(prog: str, *, description: str | None) -> argparse.ArgumentParser:
    """For parse_intermixed_args: with parse_args, an option ends the overrides."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, epilog=_choices(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="override", help="group=option or section.key=value")
    return parser


def _choices() -> str:
    groups = [folder for folder in sorted(CONFIGS.iterdir()) if folder.is_dir()]
    options = [", ".join(sorted(file.stem for file in group.glob("*.yaml"))) for group in groups]
    lines = [f"  {group.name + '=':<14} {names}" for group, names in zip(groups, options, strict=True)]
    return "\n".join(["groups and their options, the files of configs/:", *lines])
