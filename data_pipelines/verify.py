"""Compare every byte of prepared data with its manifest.

    python -m data_pipelines.verify data/stdlib                all that was prepared there
    python -m data_pipelines.verify s3://bucket/web            one folder of shards

Exit status 1 and a line for each damaged file, with the offset where the damage was found. Of what was prepared here,
the parts that it must have and its tokenizer are compared too.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, DAMAGE_EXIT, answers_errors
from data_pipelines.base.progress import progress_bar
from data_pipelines.corpora.ready import READY, load_parts, prepared_anew
from data_pipelines.documents import local
from data_pipelines.shards.manifest import (
    FILE_NAME,
    HASHES,
    IN_TREE,
    REMEDY,
    TOKENS,
    DataError,
    FileRecord,
    Manifest,
    join,
)
from data_pipelines.shards.shard import RangeFile, TreeReader, VerifiedFile
from data_pipelines.shards.storage import local_path, locate, reaching

Report = Callable[[Exception], object]


def find_folders(uri: str, report: Report) -> dict[str, set[str]]:
    """Every folder at or below `uri`, through links, -> the names in it. Reports those that may not be looked into."""
    fs, root = locate(uri)
    with reaching(uri):
        if local_path(uri) is not None:
            found = {folder: set(local.names(folder)) for folder in local.folders(root, report)}
        else:
            found = dict(_folders_of_store(fs, root))
    return {uri.rstrip("/") + folder.removeprefix(root): names for folder, names in sorted(found.items())}


def _folders_of_store(fs: Any, root: str) -> Iterator[tuple[str, set[str]]]:
    """Not fsspec's own walk: it leaves out what fails."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        infos = [info for info in fs.ls(folder, detail=True) if info["name"].rstrip("/") != folder.rstrip("/")]
        yield folder, {info["name"].rstrip("/").rsplit("/", 1)[-1] for info in infos}
        waiting += [info["name"] for info in infos if info["type"] == "directory"]


def load_manifests(folders: Mapping[str, set[str]], report: Report) -> dict[str, Manifest]:
    """Folder -> its manifest, where it has one that can be read. Reports the others."""
    manifests = {}
    for folder in (folder for folder, names in folders.items() if FILE_NAME in names):
        try:
            manifests[folder] = Manifest.load(folder)
        except OSError as error:
            report(error)
    return manifests


def check_preparation(root: str, folders: Mapping[str, set[str]], manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """What is wrong with the parts and the tokenizer of the preparation in the folder `root`."""
    parts = [join(join(root, name), part) for name, found in load_parts(root).items() for part in found]
    yield from (
        f"{part} has no {FILE_NAME}, but {READY} lists it; restore it, or {prepared_anew(root)}"
        for part in parts
        if FILE_NAME not in folders.get(part, ())
    )
    made_by = {manifests[part].tokenizer for part in parts if part in manifests}
    tokenizer = join(root, "tokenizer")
    if tokenizer not in folders:
        known = ", ".join(sorted(one[:12] for one in made_by))
        print(f"{root}: no tokenizer in it to compare: data.tokenizer named one (hash {known}), or it is gone")
    elif "tokenizer.json" not in folders[tokenizer]:
        yield f"{tokenizer}/tokenizer.json is missing; restore it, or {prepared_anew(root)}"
    else:
        fs, path = locate(f"{tokenizer}/tokenizer.json")
        if made_by - {found := hashlib.sha256(fs.cat_file(path)).hexdigest()}:
            yield (
                f"{tokenizer}/tokenizer.json has hash {found[:12]}, but shards in {root} were made by a tokenizer with "
                f"hash {', '.join(sorted(one[:12] for one in made_by))}; restore it, or {prepared_anew(root)}"
            )


def damages(uri: str, manifest: Manifest, progress: Callable[[int], object]) -> Iterator[OSError]:
    """The first damage of each file of the folder `uri`."""
    try:
        of_size = manifest.size_problems(uri)
    except OSError as error:
        yield error
        return
    reader = TreeReader(uri, manifest)
    for s, shard in enumerate(manifest.shards):
        is_tree_whole = shard.tree is not None
        for suffix, record in sorted(shard.files.items(), key=lambda item: item[0] != HASHES):  # the tree first
            file = join(uri, name := shard.file_name(suffix))
            try:
                if name in of_size:
                    raise of_size[name]
                if not shard.tree or suffix not in IN_TREE:
                    pieces = VerifiedFile(file, record, manifest.block_bytes).pieces()
                elif is_tree_whole:
                    pieces = reader.pieces(s, suffix)
                    if suffix == TOKENS and shard.groups:  # what the tree verifies is in the file, and not its bytes
                        deque(pieces, maxlen=0)
                        pieces = RangeFile(file, record.bytes).pieces()
                else:
                    pieces = RangeFile(file, record.bytes).pieces()
                _check_sha256(file, record, pieces)
            except OSError as error:
                is_tree_whole = is_tree_whole and suffix != HASHES
                yield error
            progress(record.bytes)


def _check_sha256(uri: str, record: FileRecord, pieces: Iterable[bytes]) -> None:
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
    if sha256.hexdigest() != record.sha256:
        raise DataError(f"{uri}: its sha256 is {sha256.hexdigest()}, its {FILE_NAME} says {record.sha256}; {REMEDY}")


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.verify", description=__doc__)
    parser.add_argument("uri", metavar="URI", help="folder of shards or one above such folders, path or fsspec URI")
    return verify(parser.parse_args(arguments).uri.removesuffix(f"/{FILE_NAME}"))


def verify(uri: str) -> int:
    """Prints all that is damaged at or below `uri`. Raises DataError where there is nothing to compare."""
    found = 0

    def report(error: object) -> None:
        nonlocal found
        found += 1
        tqdm.write(f"error: {error}", file=sys.stderr)

    folders = find_folders(uri, report)
    manifests = load_manifests(folders, report)
    for root in (folder for folder, names in folders.items() if READY in names):
        try:
            for problem in check_preparation(root, folders, manifests):
                report(problem)
        except OSError as error:
            report(error)
    if not manifests and not found:
        raise DataError(f"{uri}: no {FILE_NAME} there or below; not prepared data, or not finished")
    num_bytes = sum(record.bytes for manifest in manifests.values() for _, record in manifest.files())
    with progress_bar(total=num_bytes, desc="verify", unit="B", unit_scale=True) as bar:
        for folder, manifest in manifests.items():
            for error in damages(folder, manifest, bar.update):
                report(error)
    tokens = sum(manifest.num_tokens for manifest in manifests.values())
    print(f"{uri}: {tokens:,} tokens, {num_bytes:,} bytes, {found or 'no'} damaged file{'' if found == 1 else 's'}")
    return DAMAGE_EXIT if found else 0


if __name__ == "__main__":
    run_command(main)
