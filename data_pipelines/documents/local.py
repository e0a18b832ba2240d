"""Local folders, through links, with nothing left out: what cannot be looked into is an error, not an empty place."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator


def status(path: str) -> os.stat_result | None:
    """Of what `path` leads to; None where there is nothing.

    Raises ValueError for a link to nowhere and for a folder on the way that may not be entered, else OSError.
    """
    try:
        return os.stat(path)
    except PermissionError as err:
        raise _without_right(path, os.X_OK) from err
    except OSError as err:
        if os.path.islink(path):
            raise ValueError(
                f"{path} is a link to {os.readlink(path)}, which leads nowhere; mend it or remove it"
            ) from err
        if isinstance(err, FileNotFoundError | NotADirectoryError):
            return None
        raise


def is_folder(path: str) -> bool:
    """Raises what `status` raises."""
    return (found := status(path)) is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: str) -> bool:
    """A plain one: no pipe and no device. Raises what `status` raises."""
    return (found := status(path)) is not None and stat.S_ISREG(found.st_mode)


def names(folder: str) -> list[str]:
    """Of all that is in it. Raises ValueError where it may not be listed, else OSError."""
    try:
        return os.listdir(folder)
    except PermissionError as err:
        raise _without_right(folder, os.R_OK) from err


def folders(root: str, on_error: Callable[[ValueError], object]) -> Iterator[str]:
    """`root` and every folder below it once, those behind links last. Links in a loop therefore come to an end.

    What `status` and `names` raise ValueError for is handed to `on_error`; where that returns, it is left out.
    """
    waiting, seen = deque([root]), set()
    while waiting:
        folder = waiting.popleft()
        try:
            found = status(folder)
            if found is None or not stat.S_ISDIR(found.st_mode) or (found.st_dev, found.st_ino) in seen:
                continue
            below = [os.path.join(folder, name) for name in names(folder)]
        except ValueError as error:
            on_error(error)
            continue
        seen.add((found.st_dev, found.st_ino))
        yield folder
        for path in below:
            waiting.append(path) if os.path.islink(path) else waiting.appendleft(path)


def _without_right(path: str, right: int) -> ValueError:
    """path: what could not be reached for want of `right`, or a folder that could not be listed."""
    folder, letter, what = path, "r", "listed"
    if right == os.X_OK:
        both = (path, os.path.realpath(path))  # a link may lead through a folder that is not in its own path
        ways = [way[:end] for way in both for end, sign in enumerate(way) if sign == "/" and end]
        folder = next((way for way in ways if not os.access(way, os.X_OK)), os.path.dirname(path))
        letter, what = "x", "entered"
    return ValueError(
        f"{folder} may not be {what}, so what is in it would be left out; ask for the right (chmod u+{letter} "
        f"{folder}), or leave the folder out"
    )
