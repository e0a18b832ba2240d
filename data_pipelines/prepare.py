"""Make a corpus ready to train on, once: hold out, train the tokenizer, write shards.

    python -m data_pipelines.prepare [data=files data.sources.mine.glob='texts/*.txt' ...]
    python -m data_pipelines.prepare --config-dir ~/mine data=mine     options of your own: ~/mine/data/mine.yaml

What is made, and where: data_pipelines/corpora/preparation.py. Training does the same by itself where it has to.
"""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import TYPE_CHECKING

from data_pipelines.base.command import overrides_parser, parse_overrides, run_command
from data_pipelines.base.errors import CONFIG_EXIT, ConfigError, answers_errors

if TYPE_CHECKING:
    from data_pipelines.corpora.kinds import AnyData
    from data_pipelines.shards.source import TokenSource


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    args = parse(arguments)
    if args.cfg or args.info:
        from data_pipelines.settings.compose import shown
        from data_pipelines.settings.sections import dump

        print(shown(args, lambda overrides: {"data": dump(read_data_section(overrides))}))
        return 0
    for data in read_each(args.overrides) if args.multirun else [read_data_section(args.overrides)]:
        print(made_ready(data))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    multirun = "the data of each value, one after the other: -m data.vocab_size=4096,8192"
    parser = overrides_parser("python -m data_pipelines.prepare", description=__doc__, multirun=multirun)
    return parse_overrides(parser, arguments)


def read_each(overrides: list[str]) -> list[AnyData]:
    """The `data` sections of a sweep. Raises ConfigError with every problem in them."""
    from data_pipelines.settings.sweep import check_each, combinations

    return check_each(combinations(overrides), lambda one: read_data_section(one.overrides))


def made_ready(data: AnyData) -> str:
    """Prepares `data` where that is still to do; says what there is, and where."""
    from data_pipelines.corpora.preparation import prepare

    opened = prepare(data)
    lines = [f"tokenizer: {opened.prepared.tokenizer_dir}"]
    for name, train in opened.train.items():
        lines.append(_line(f"{name}, train", train))
        if name in opened.held_out:
            lines.append(_line(f"{name}, held out", opened.held_out[name]))
    return "\n".join(lines)


def _line(part: str, source: TokenSource) -> str:
    facts = source.manifest
    return f"{part}: {facts.num_tokens:,} tokens, {facts.num_documents:,} documents, {source.uri}"


def read_data_section(overrides: list[str]) -> AnyData:
    """The `data` section that Hydra overrides give. Raises ConfigError with every problem in it."""
    from data_pipelines.corpora.kinds import DataConfig
    from data_pipelines.settings.compose import compose
    from data_pipelines.settings.sections import unknown_sections, validate

    settings, types = compose(["run.name=prepare", *overrides]), {"data": DataConfig}
    # The other sections are the trainer's to check; one that was meant to be `data` must not go unread.
    misspelt = [name for name in settings if name not in types and get_close_matches(name, types)]
    sections, problems = validate(settings, types)
    if problems := unknown_sections(misspelt, types) + problems:
        raise ConfigError(problems)
    return sections["data"]


if __name__ == "__main__":
    run_command(main, advice="The same command prepares the data anew.")
