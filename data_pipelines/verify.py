"""Compare every byte of prepared data with its manifest.

    python -m data_pipelines.verify data/stdlib                all that was prepared there
    python -m data_pipelines.verify s3://bucket/web            one folder of shards

Exit status 1 and a line for each damaged file, with the offset where the damage was found.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import DATA_EXIT, answers_errors
from data_pipelines.shards.manifest import FILE_NAME, DataError, Manifest, VerifiedFile, join
from data_pipelines.shards.storage import locate


def find_folders(uri: str) -> list[str]:
    """Every folder at or below `uri` that has a manifest. Raises DataError if there is none."""
    fs, root = locate(uri)
    found = [path for path in sorted(fs.find(root)) if path.rsplit("/", 1)[-1] == FILE_NAME]
    if not found:
        raise DataError(f"{uri}: no {FILE_NAME} there or below; not prepared data, or not finished")
    return [uri.rstrip("/") + path.rsplit("/", 1)[0].removeprefix(root) for path in found]


def damages(uri: str, manifest: Manifest, progress: Callable[[int], object]) -> Iterator[DataError]:
    """The first damage of each file of the folder `uri`."""
    of_size = manifest.size_problems(uri)
    for name, record in manifest.files():
        file = VerifiedFile(join(uri, name), record, manifest.block_bytes)
        try:
            if name in of_size:
                raise of_size[name]
            for block in range(len(record.blocks)):
                file.verify_block(block)
        except DataError as error:
            yield error
        progress(record.bytes)


@answers_errors({ValueError: DATA_EXIT, OSError: DATA_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.verify", description=__doc__)
    parser.add_argument("uri", metavar="URI", help="folder of shards or one above such folders, path or fsspec URI")
    uri = parser.parse_args(arguments).uri
    manifests = {folder: Manifest.load(folder) for folder in find_folders(uri)}
    num_bytes = sum(record.bytes for manifest in manifests.values() for _, record in manifest.files())
    found = 0
    with tqdm(total=num_bytes, desc="verify", unit="B", unit_scale=True) as bar:
        for folder, manifest in manifests.items():
            for error in damages(folder, manifest, bar.update):
                bar.write(f"error: {error}", file=sys.stderr)
                found += 1
    tokens = sum(manifest.num_tokens for manifest in manifests.values())
    print(f"{uri}: {tokens:,} tokens, {num_bytes:,} bytes, {found or 'no'} damaged file(s)")
    return DATA_EXIT if found else 0


if __name__ == "__main__":
    run_command(main)
