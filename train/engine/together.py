"""What one rank does for all, and what all must have done: errors are everybody's, so that nobody waits in vain."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch.distributed as dist

from data_pipelines.base.errors import ConfigError, RunError

T = TypeVar("T")


class LostRankError(RuntimeError):
    """Another rank has ended, or does not answer: no fault of what this one was doing."""


@contextmanager
def talking() -> Iterator[None]:
    """Collectives whose failure is a LostRankError."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(f"another rank has ended, or does not answer ({error})") from error


def from_rank_0(function: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """What `function` returns on rank 0, which alone calls it. Raises on every rank what it raises there."""
    own = _attempt(function) if dist.get_rank() == 0 else (None, None)
    shared = [own]
    with talking():
        dist.broadcast_object_list(shared, src=0, group=group)
    result, error = own if dist.get_rank() == 0 else shared[0]
    if error is not None:
        raise error
    return cast(T, result)


def on_all_ranks(function: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """What `function` returns here, when it has returned on every rank. Raises on every rank what it raised on one."""
    result, error = _attempt(function)
    errors: list[Exception | None] = [None] * dist.get_world_size()
    with talking():
        dist.all_gather_object(errors, error, group=group)
    if first := error or next(filter(None, errors), None):
        raise first
    return cast(T, result)


def to_rank_0(value: T, group: dist.ProcessGroup | None) -> list[T]:
    """The values of all ranks on rank 0; nothing elsewhere. Its own is not sent: others would be padded to its size."""
    is_first = dist.get_rank() == 0
    values: list[T | None] = [None] * dist.get_world_size()
    with talking():
        dist.gather_object(None if is_first else value, values if is_first else None, dst=0, group=group)
    return [value, *cast(list[T], values[1:])] if is_first else []


def _attempt(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, _sendable(innermost(error))


def innermost(error: BaseException) -> BaseException:
    """The reason of an error's reason: a full disk, say, where torch speaks of a file that has lost its place. Other
    ranks hear of no more. What the system or this program says names its file or setting: it is not looked behind."""
    seen: list[BaseException] = []
    reason: BaseException | None = error
    while reason is not None and reason not in seen:
        seen.append(reason)
        if isinstance(reason, OSError | ConfigError | RunError):
            break
        reason = reason.__cause__ or (None if reason.__suppress_context__ else reason.__context__)
    return seen[-1]


def _sendable(error: BaseException) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        assert isinstance(error, Exception)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
