"""What a process of the pool runs (`api/http/worker_pool.py`). It imports nothing else, so that it starts quickly."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from functools import cache
from typing import Final, TypeVar

T = TypeVar("T")

MEMORY_BYTES: Final = 768 * 1024 * 1024
"""Memory of one process of the pool. A body of 16 MiB takes up to a third of it."""
NICENESS: Final = 10
"""The process that answers goes first when cores are short."""


def run_within_limits(function: Callable[..., T], args: tuple[object, ...]) -> T:
    """Return the result of *function*. Raises MemoryError if it needs more than `MEMORY_BYTES`."""
    _limit_process()
    return function(*args)


@cache
def _limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(NICENESS)
