"""Make a corpus ready to train on, once: hold out, train the tokenizer, write shards.

    python -m data_pipelines.prepare [data=files data.sources.mine.glob='texts/*.txt' ...]

What is made, and where: data_pipelines/corpora/preparation.py. Training does the same by itself where it has to.
"""

from __future__ import annotations

import argparse
import sys

from data_pipelines.base.compose import compose
from data_pipelines.base.errors import ConfigError
from data_pipelines.base.sections import validate
from data_pipelines.corpora.kinds import AnyData, DataConfig
from data_pipelines.corpora.preparation import prepare
from data_pipelines.shards.manifest import Manifest


def read_data_section(overrides: list[str]) -> AnyData:
    """The `data` section that Hydra overrides give. Raises ConfigError with every problem in it."""
    sections, problems = validate(compose(["run.name=prepare", *overrides]), {"data": DataConfig})
    if problems:
        raise ConfigError(problems)
    return sections["data"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as for python -m train")
    overrides = parser.parse_args(arguments).overrides
    try:
        prepared = prepare(read_data_section(overrides))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"tokenizer: {prepared.tokenizer_dir}")
    for name, source in prepared.sources.items():
        for part, uri in (("train", source.train), ("held out", source.held_out)):
            if uri:
                manifest = Manifest.load(uri)
                print(f"{name}, {part}: {manifest.num_tokens:,} tokens, {manifest.num_documents:,} documents, {uri}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
