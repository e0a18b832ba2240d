"""The face of every command: its arguments, its help, its tables, and how it ends. Imports nothing that takes time."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NoReturn

from data_pipelines.base.errors import UNSET, Main
from data_pipelines.base.signals import end_on_signals, interruption
from data_pipelines.base.streams import keep_streams

CONFIGS = Path(__file__).parents[2] / "configs"
SEARCH_PATH = "hydra.searchpath"
"""The override that names further folders like CONFIGS."""
RUN_SWEEP = (
    "a run for each value, one after the other: -m optimizer.muon.lr=1e-2,2e-2 balance=sign,smebu; each run is named "
    "after its values"
)
"""What --multirun does in a command that starts runs."""


def run_command(main: Main, *, advice: str = "", first_words: str = "") -> NoReturn:
    """Runs `main` on the arguments of this process and ends it, also when a signal comes.

    advice: what a person who stopped the command should know, one sentence. first_words: said at once, on stderr, by a
    command that is silent for some seconds before its result.
    """
    keep_streams()
    end_on_signals(advice)
    if first_words and not {"-h", "--help"} & set(sys.argv):
        print(first_words, file=sys.stderr, flush=True)
    try:
        exit_code = main(sys.argv[1:])
    except BaseException as error:
        if not (stop := interruption(error)):
            raise
        exit_code = stop.say()
    sys.exit(exit_code)


def command_parser(prog: str, *, description: str | None) -> argparse.ArgumentParser:
    """For a command that works on files: its help is its module's docstring. No text or path may be empty."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.register("type", None, _not_empty)
    parser.register("type", Path, lambda text: Path(_not_empty(text)))  # an empty one would be the current folder
    return parser


def _not_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must not be empty, {UNSET}")
    return text


def overrides_parser(prog: str, *, description: str | None, multirun: str = "") -> argparse.ArgumentParser:
    """For a command that composes a configuration. Its arguments are read by parse_overrides."""
    parser = command_parser(prog, description=description)
    add_overrides(parser, multirun=multirun)
    return parser


def add_overrides(
    parser: argparse.ArgumentParser, *, metavar: str = "override", nargs: str = "*", multirun: str = ""
) -> None:
    """The overrides of a command line, the folder that they may name files of, and Hydra's own options.

    multirun: what a sweep does, for the help; empty for a command that has none.
    """
    parser.add_argument("overrides", nargs=nargs, metavar=metavar, help="group=option or section.key=value")
    parser.add_argument(
        "--config-dir",
        metavar="DIR",
        type=Path,
        help="a folder like configs/ with options of your own: DIR/experiment/mine.yaml is experiment=mine",
    )
    parser.add_argument("--cfg", choices=["job"], help="print the configuration as YAML, defaults included, and stop")
    parser.add_argument(
        "--info",
        choices=["defaults", "searchpath"],
        help="print which files the configuration is made of, or where they are looked for, and stop",
    )
    if multirun:
        parser.add_argument("-m", "--multirun", action="store_true", help=multirun)
    else:
        parser.set_defaults(multirun=False)


def parse_overrides(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Options may stand anywhere among the overrides. --config-dir becomes the first of them, Hydra's search path."""
    folder = _config_dir(arguments)
    problem = _config_dir_problem(folder) if folder else ""
    parser.epilog = _choices([CONFIGS, folder] if folder and not problem else [CONFIGS])
    args = parser.parse_intermixed_args(arguments)
    if problem:
        parser.error(f"argument --config-dir: {problem}")
    if args.multirun and (args.cfg or args.info):
        parser.error("--cfg and --info show one configuration; leave out --multirun")
    if folder:
        args.overrides.insert(0, f"{SEARCH_PATH}=[{quoted(f'file://{folder.absolute()}')}]")
    return args


def _config_dir(arguments: list[str]) -> Path | None:
    """Known before all else is parsed, since --help shows what is in it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", type=Path)
    try:
        return parser.parse_known_args(arguments)[0].config_dir
    except argparse.ArgumentError:  # without its value: the whole parser says so
        return None


def _config_dir_problem(folder: Path) -> str:
    """Empty where there is none."""
    if not folder.is_dir():
        return f"{folder.absolute()} is no folder"
    own = [file.relative_to(folder) for file in sorted(folder.rglob("*.yaml"))]
    if hidden := [str(file) for file in own if (CONFIGS / file).is_file()]:
        return f"{folder}: {', '.join(hidden)} would be hidden by the file of that name in configs/; rename it"
    return ""


def aligned(lines: Sequence[Sequence[str]], *, words: Container[int] | None = None) -> list[str]:
    """A table: columns as wide as their widest cell. Those of `words` begin at the left, the others end at the right;
    None: all begin at the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if words is None or place in words else ">" for place in range(len(widths))]
    layout = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [layout.format(*line).rstrip() for line in lines]


def quoted(text: str) -> str:
    """A text in Hydra's grammar: quotes, and the backslashes before them, are escaped."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def _choices(folders: Sequence[Path]) -> str:
    groups: dict[str, list[str]] = {}
    for group in (entry for folder in folders for entry in sorted(folder.iterdir()) if entry.is_dir()):
        groups.setdefault(group.name, []).extend(sorted(file.stem for file in group.glob("*.yaml")))
    lines = [f"  {name + '=':<14} {', '.join(options)}" for name, options in groups.items() if options]
    where = " and ".join(["configs/", *map(str, folders[1:])])
    return "\n".join([f"groups and their options, the files of {where}:", *lines])
