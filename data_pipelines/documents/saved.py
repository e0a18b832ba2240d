"""Folders that Hugging Face `datasets` saved with save_to_disk: which of their files hold rows, in which order."""

from __future__ import annotations

import json
import posixpath
from typing import Any


def saved_files(fs: Any, folder: str, *, setting: str) -> list[str]:
    """The files of a data set; none where the folder is not one of those.

    Raises ValueError, naming the `setting`, for a folder of several splits (some are not to be trained on), for a
    damaged one, and for one that lacks a file.
    """
    if fs.isfile(posixpath.join(folder, "dataset_dict.json")):
        splits = sorted(posixpath.basename(path) for path in fs.ls(folder, detail=False) if fs.isdir(path))
        raise ValueError(f"{setting}: {folder} holds several splits; name one: {', '.join(splits)}")
    state = posixpath.join(folder, "state.json")
    if not fs.isfile(state):
        return []
    try:
        files = [posixpath.join(folder, file["filename"]) for file in json.loads(fs.cat_file(state))["_data_files"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{setting}: {state} does not list the files of a data set ({error!r}); save it again"
        ) from error
    if missing := [file for file in files if not fs.isfile(file)]:
        raise ValueError(f"{setting}: {missing[0]} is missing, which {state} lists; copy the whole folder again")
    return files
